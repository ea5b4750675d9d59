"""Guesses of a sequence's next tokens: where they come from, how they are judged."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadenza.server.engine.drafts import FIRST_HIT_RATE, MATCH_TOKENS, MOST_READ, Drafter


def guess(tokens: Sequence[int], count: int = 4, prompt_length: int = 0) -> list[int]:
    drafter = Drafter(prompt_length)
    while len(tokens) > drafter.num_read:
        drafter.read(tokens)
    return drafter.guess(tokens, count).tolist()


def test_what_followed_the_last_tokens_before_is_guessed_to_follow_again() -> None:
    assert guess([1, 2, 3, 7, 8, 9, 5, 1, 2, 3]) == [7, 8, 9, 5]


def test_no_more_is_guessed_than_asked_for() -> None:
    assert guess([1, 2, 3, 7, 8, 9, 5, 1, 2, 3], count=2) == [7, 8]
    assert guess([1, 2, 3, 7, 8, 9, 5, 1, 2, 3], count=0) == []


def test_nothing_is_guessed_where_the_last_tokens_are_new() -> None:
    assert guess([1, 2, 3, 7, 8, 9, 5, 1, 3]) == []
    assert guess(range(50)) == []
    assert guess([]) == []


def test_of_two_places_the_later_counts() -> None:
    assert guess([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], count=1) == [8]


def test_a_loop_goes_on_beyond_what_is_there() -> None:
    assert guess([5, 6, 5, 6, 5, 6], count=5) == [5, 6, 5, 6, 5]
    assert guess([4, 4, 4, 4], count=3) == [4, 4, 4]


def test_a_match_is_followed_as_long_as_it_is_right() -> None:
    # 2, 3 would find the later place, but the one that 1, 2 has found still holds.
    tokens = [1, 2, 3, 8, 0, 2, 3, 9, 1, 2, 3]
    assert guess(tokens[:-1], count=2) == [3, 8]
    assert guess(tokens, count=1) == [8]


def test_the_hit_rate_is_of_generated_tokens_that_had_a_guess() -> None:
    tokens = [1, 2, 3, 7, 1, 2, 3, 7, 1, 2, 3, 7, 1]
    in_prompt, generated, unguessed = Drafter(len(tokens)), Drafter(4), Drafter(0)
    in_prompt.read(tokens)
    generated.read(tokens)
    unguessed.read(range(40))
    assert in_prompt.hit_rate == unguessed.hit_rate == FIRST_HIT_RATE
    # The first six have no guess, the seven after them were all guessed.
    assert generated.hit_rate == pytest.approx(1 - (1 - FIRST_HIT_RATE) * (7 / 8) ** 7)


def test_wrong_guesses_lower_the_hit_rate() -> None:
    tokens = [token for index in range(20) for token in (1, 2, 10 + index)]
    drafter = Drafter(0)
    drafter.read(tokens)
    assert drafter.hit_rate < 0.1


def test_a_long_prompt_is_read_in_parts_and_nothing_is_guessed_before_all_is_read() -> None:
    tokens = [1, 2, 3, 7] * MOST_READ
    drafter = Drafter(len(tokens))
    reads = 0
    while drafter.num_read < len(tokens):
        assert not drafter.guess(tokens, 4)
        drafter.read(tokens)
        reads += 1
    assert reads == 4
    assert drafter.guess(tokens, 4).tolist() == [1, 2, 3, 7]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 6))
def test_a_guess_continues_some_earlier_place_that_ends_as_the_sequence_does(
    tokens: list[int], count: int
) -> None:
    found = guess(tokens, count)
    places = [
        end
        for end in range(MATCH_TOKENS, len(tokens))
        if tokens[end - MATCH_TOKENS : end] == tokens[-MATCH_TOKENS:]
    ]
    assert len(found) == (count if places else 0)
    if found:
        longer = [*tokens, *found]
        assert any(longer[end : end + count] == found for end in places)


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 30))
def test_reading_in_any_portions_gives_the_same(tokens: list[int], portion: int) -> None:
    drafter = Drafter(5)
    for end in range(0, len(tokens), portion):
        drafter.read(tokens[: end + portion])
    whole = Drafter(5)
    whole.read(tokens)
    assert drafter.guess(tokens, 5) == whole.guess(tokens, 5)
    assert drafter.hit_rate == whole.hit_rate
