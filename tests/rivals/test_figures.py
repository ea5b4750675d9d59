"""Formulas of the comparison with other engines, on times that can be computed by hand."""

import pytest
from tests.bench.rivals.driver import Completion
from tests.bench.rivals.figures import decode_throughput, same_answer, throughput, time_to_first_token


def completion(*times: float) -> Completion:
    return Completion(list(range(len(times))), list(times))


def test_throughput_is_all_tokens_by_the_time_of_the_last() -> None:
    assert throughput([completion(1.0, 2.0), completion(1.0, 2.0, 4.0)]) == pytest.approx(5 / 4)


def test_time_to_first_token_is_that_of_the_first_of_all() -> None:
    assert time_to_first_token([completion(3.0, 4.0), completion(2.0, 5.0)]) == 2.0


def test_decode_throughput_counts_only_while_all_decode() -> None:
    early, late = completion(1.0, 2.0, 3.0, 4.0), completion(2.0, 3.0, 4.0, 5.0)
    assert decode_throughput([early, late]) == pytest.approx(4 / 2)


def test_decode_throughput_without_a_common_window_is_refused() -> None:
    with pytest.raises(ValueError, match="no window"):
        decode_throughput([completion(1.0, 2.0), completion(3.0, 4.0)])


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ([5, 6, 2, 9], True),
        ([5, 6, 2, 8], True),
        ([5, 7, 2, 9], False),
        ([5, 6, 9, 2], False),
        ([5, 6], False),
    ],
)
def test_an_answer_is_the_same_up_to_its_end_token(found: list[int], same: bool) -> None:
    assert same_answer([5, 6, 2, 9], found, [2]) is same


def test_an_answer_without_end_token_is_compared_whole() -> None:
    assert same_answer([5, 6, 9], [5, 6, 9], [2])
    assert not same_answer([5, 6, 9], [5, 6, 8], [2])
