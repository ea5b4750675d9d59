"""Log-probabilities against float64, their order and their ends; rows that are not finite."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runner.bigram import BigramRunner, after, one_row, part
from tests.runner.exact import log_softmax

from cadenza.server.engine.request import GREEDY, SamplingParams, TokenLogprob
from cadenza.server.runner.base import NO_TOKEN, NOT_FINITE, StepBatch

ASKING = dataclasses.replace(GREEDY, logprobs=3)


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("vocabulary", [2, 97, 5003])
def test_logprobs_are_float64s_log_softmax(scale: float, vocabulary: int) -> None:
    chance = np.random.default_rng(vocabulary)
    logits = (scale * chance.normal(0, 1, vocabulary) - 50).astype(np.float32)
    expected = log_softmax(logits)
    count = min(20, vocabulary)
    sampling = SamplingParams(temperature=1.3, logprobs=count, seed=4)
    targets = chance.integers(0, vocabulary, 7).tolist()
    asking = part([0] * 8, sampling, targets=targets, target_alternatives=2)
    runner = one_row(logits)
    (found,) = runner.step(StepBatch([asking])).logprobs.values()
    assert [entry.token_id for entry in found[:-1]] == targets
    for entry in found:
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-6, rel=1e-7)
        for token_id, logprob in entry.alternatives:
            assert logprob == pytest.approx(expected[token_id], abs=1e-6, rel=1e-7)
    order = np.argsort(-logits, kind="stable").tolist()
    assert [token_id for token_id, _ in found[-1].alternatives] == order[:count]
    assert [token_id for token_id, _ in found[0].alternatives] == order[:2]


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = np.array([1.0, 2.0, 0.5, -1.0], np.float32)
    sampling = SamplingParams(
        temperature=0.5, top_k=1, logprobs=4, logit_bias=((3, 50.0),), repetition_penalty=2.0
    )
    result = one_row(logits).step(StepBatch([after([1, 1], 1, sampling)]))
    expected = log_softmax(logits)
    assert result.token_ids == [3]
    (entry,) = result.logprobs[0]
    assert entry.logprob == pytest.approx(expected[3], abs=1e-6)
    assert [token_id for token_id, _ in entry.alternatives] == [1, 0, 2, 3]
    assert [logprob for _, logprob in entry.alternatives] == pytest.approx(expected[[1, 0, 2, 3]], abs=1e-6)


def alternatives(logits: list[float], count: int) -> list[int]:
    asking = part([0], dataclasses.replace(GREEDY, logprobs=count))
    (entry,) = one_row(logits).step(StepBatch([asking])).logprobs[0]
    return [token_id for token_id, _ in entry.alternatives]


@pytest.mark.parametrize(
    ("logits", "count", "expected"),
    [
        ([1.0, 3.0, 3.0, 2.0, 3.0], 2, [1, 2]),
        ([1.0, 3.0, 3.0, 2.0, 3.0], 4, [1, 2, 4, 3]),
        ([0.0] * 30, 20, list(range(20))),
        ([5.0, 1.0, 5.0, 9.0, 1.0], 5, [3, 0, 2, 1, 4]),
    ],
)
def test_equal_alternatives_stand_in_the_order_of_their_ids(
    logits: list[float], count: int, expected: list[int]
) -> None:
    assert alternatives(logits, count) == expected


def test_no_more_alternatives_come_than_are_asked_for_or_are_possible() -> None:
    assert alternatives([1.0, 2.0, 3.0], 0) == []
    assert alternatives([1.0, 2.0, 3.0], 1) == [2]
    assert alternatives([1.0, 2.0, 3.0], 20) == [2, 1, 0]
    assert alternatives([1.0, -np.inf, 3.0], 20) == [2, 0]


@pytest.mark.parametrize("count", [-1, 21])
def test_more_than_20_alternatives_are_refused(count: int) -> None:
    runner = one_row([0.0] * 30)
    with pytest.raises(ValueError, match=f"{count} alternatives were asked for; from 0 to 20"):
        runner.step(StepBatch([part([0], dataclasses.replace(GREEDY, logprobs=count))]))
    with pytest.raises(ValueError, match=f"{count} alternatives were asked for; from 0 to 20"):
        runner.step(StepBatch([part([0], None, targets=[1], target_alternatives=count)]))


def test_a_target_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"targets of tokens 1 to 3: token ids lie in 0\.\.2"):
        one_row([0.0] * 3).step(StepBatch([part([0, 0], None, targets=[1, 3])]))


def test_an_impossible_target_has_a_logprob_of_minus_infinity() -> None:
    result = one_row([0.0, -np.inf, 1.0]).step(StepBatch([part([0], None, targets=[1])]))
    assert result.logprobs == {0: [TokenLogprob(1, -np.inf)]}


def test_only_those_who_ask_get_logprobs() -> None:
    slices = [
        part([0], GREEDY),
        part([0, 0], ASKING, targets=[1], target_alternatives=1),
        part([0, 0], None, targets=[1, 0]),
        part([0], None),
        part([0, 0, 0], GREEDY, targets=[1]),
        part([0], ASKING),
    ]
    result = one_row([0.0, 2.0, 1.0]).step(StepBatch(slices))
    assert result.token_ids == [1, 1, NO_TOKEN, NO_TOKEN, 1, 1]
    counts = {index: [len(entry.alternatives) for entry in found] for index, found in result.logprobs.items()}
    assert counts == {1: [1, 3], 2: [0, 0], 4: [0], 5: [3]}
    assert [entry.token_id for entry in result.logprobs[1]] == [1, 1]
    assert [entry.token_id for entry in result.logprobs[2]] == [1, 0]


def table_with_a_bad_row(bad: list[float]) -> NDArray[np.float32]:
    """Logits of five tokens; those after token 4 are bad."""
    table = np.random.default_rng(0).normal(0, 1, (5, 5)).astype(np.float32)
    table[4] = bad
    return table


@pytest.mark.parametrize(
    "bad",
    [
        [0.0, np.nan, 1.0, 0.0, 0.0],
        [np.nan, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, np.inf],
        [-np.inf] * 5,
        [np.nan] * 5,
    ],
)
@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        SamplingParams(seed=3),
        ASKING,
        SamplingParams(top_p=0.5, logit_bias=((1, 5.0), (4, 5.0)), logprobs=1),
    ],
    ids=repr,
)
def test_logits_that_are_not_finite_fail_their_own_slice_only(
    bad: list[float], sampling: SamplingParams
) -> None:
    runner = BigramRunner(table_with_a_bad_row(bad))
    good = [part([token], sampling, start=token) for token in range(4)]
    expected = runner.step(StepBatch(good))
    result = runner.step(StepBatch([*good[:2], part([4], sampling), *good[2:]]))
    assert result.token_ids == [*expected.token_ids[:2], NOT_FINITE, *expected.token_ids[2:]]
    assert [result.logprobs.get(place) for place in (0, 1, 3, 4)] == [
        expected.logprobs.get(place) for place in range(4)
    ]
    assert 2 not in result.logprobs


def test_a_bad_row_among_the_targets_fails_the_slice() -> None:
    runner = BigramRunner(table_with_a_bad_row([np.nan] * 5))
    slices = [
        part([1, 4, 2], ASKING, targets=[4, 2]),
        part([1, 3, 2], ASKING, targets=[3, 2]),
        part([4, 1], None, targets=[1, 2]),
        part([4, 4, 1], GREEDY),
    ]
    result = runner.step(StepBatch(slices))
    assert result.token_ids[0] == result.token_ids[2] == NOT_FINITE
    assert min(result.token_ids[1], result.token_ids[3]) >= 0
    assert list(result.logprobs) == [1]


def test_penalties_work_after_a_row_that_was_not_finite() -> None:
    table = table_with_a_bad_row([np.nan] * 5)
    table[1] = [1.0, 3.0, 2.5, 0.0, 0.0]
    sampling = dataclasses.replace(GREEDY, frequency_penalty=0.3)
    slices = [after([0, 1, 4], 1, sampling), after([0, 1, 1], 1, sampling)]
    assert BigramRunner(table).step(StepBatch(slices)).token_ids == [NOT_FINITE, 2]


def test_biases_that_forbid_every_token_leave_none() -> None:
    forbidding = dataclasses.replace(GREEDY, logit_bias=tuple((token, -np.inf) for token in range(3)))
    assert one_row([0.0, 1.0, 2.0]).step(StepBatch([part([0], forbidding)])).token_ids == [NOT_FINITE]
