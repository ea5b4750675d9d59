"""Tokens are drawn with the exact probabilities, by numbers of seed, choice and position alone."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.runner.bigram import BigramRunner, after, one_row, part
from tests.runner.exact import chi_square_is_plausible, distribution

from cadenza.server.engine.request import GREEDY, SamplingParams
from cadenza.server.runner.base import StepBatch
from cadenza.server.runner.cpu.sampling import uniform

LOGITS = np.array([1.0, 2.5, 0.0, 2.0, -1.0, 1.5, -30.0], np.float32)
DRAWS = 20_000
HISTORY = [3, 0, 1, 4, 1, 5, 1]
PROMPT = 3
PENALTIES = SamplingParams(repetition_penalty=1.3, presence_penalty=0.6, frequency_penalty=0.4)


@pytest.fixture(scope="module")
def runner() -> BigramRunner:
    return one_row(LOGITS, max_sequences=1000, max_context=DRAWS + 4)


def frequencies(runner: BigramRunner, sampling: SamplingParams) -> NDArray[np.int64]:
    """[V] How often each token is drawn after HISTORY, over DRAWS seeds."""
    asking = after(HISTORY, PROMPT, sampling)
    counts = np.zeros(len(LOGITS), np.int64)
    for first in range(0, DRAWS, 1000):
        seeds = range(first, first + 1000)
        slices = [
            dataclasses.replace(asking, sampling=dataclasses.replace(sampling, seed=seed)) for seed in seeds
        ]
        counts += np.bincount(runner.step(StepBatch(slices)).token_ids, minlength=len(LOGITS))
    return counts


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7),
        SamplingParams(temperature=2.0, top_k=3),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.3),
        SamplingParams(temperature=1.3, top_k=5, top_p=0.9, min_p=0.2),
        SamplingParams(top_k=100),
        SamplingParams(top_k=1, top_p=0.5, min_p=0.9),
        SamplingParams(logit_bias=((2, 2.0), (1, -1.5))),
        SamplingParams(logit_bias=((6, 33.0),)),
        SamplingParams(repetition_penalty=1.5),
        SamplingParams(repetition_penalty=0.7),
        SamplingParams(presence_penalty=0.9),
        SamplingParams(presence_penalty=-0.9),
        SamplingParams(frequency_penalty=0.5),
        PENALTIES,
        dataclasses.replace(PENALTIES, logit_bias=((5, 1.0), (2, 0.5)), temperature=0.8),
        dataclasses.replace(PENALTIES, top_k=4, top_p=0.9, min_p=0.05),
        dataclasses.replace(PENALTIES, logit_bias=((4, 3.0),), top_p=0.85, temperature=1.7, logprobs=3),
    ],
    ids=repr,
)
def test_frequencies_are_those_of_the_exact_distribution(
    runner: BigramRunner, sampling: SamplingParams
) -> None:
    shares = distribution(LOGITS, sampling, HISTORY, PROMPT)
    assert chi_square_is_plausible(frequencies(runner, sampling), DRAWS * shares)


def test_the_chi_square_test_notices_another_distribution(runner: BigramRunner) -> None:
    found = frequencies(runner, SamplingParams(temperature=1.05))
    assert not chi_square_is_plausible(found, DRAWS * distribution(LOGITS, SamplingParams()))


def drawn(runner: BigramRunner, samplings: Sequence[SamplingParams], position: int) -> list[int]:
    """The tokens that these options draw for this position, side by side."""
    slices = [part([0], sampling, start=position - 1) for sampling in samplings]
    return list(runner.step(StepBatch(slices)).token_ids)


def test_positions_of_one_sequence_are_independent_draws(runner: BigramRunner) -> None:
    sampling = SamplingParams(seed=11)
    tokens = np.array([drawn(runner, [sampling], position)[0] for position in range(1, 5001)])
    shares = distribution(LOGITS, sampling)
    joint = np.zeros((len(LOGITS), len(LOGITS)), np.int64)
    np.add.at(joint, (tokens[:-1], tokens[1:]), 1)
    assert chi_square_is_plausible(joint.sum(axis=1), (len(tokens) - 1) * shares)
    expected = (len(tokens) - 1) * np.outer(shares, shares)
    assert chi_square_is_plausible(joint[expected > 3], expected[expected > 3])


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (0, 5), (3, 127)])
def test_choices_of_one_request_are_independent_draws(runner: BigramRunner, first: int, second: int) -> None:
    joint = np.zeros((len(LOGITS), len(LOGITS)), np.int64)
    samplings = [SamplingParams(seed=7, choice=choice) for choice in (first, second)]
    for begin in range(0, 10_000, 500):
        slices = [
            part([0], sampling, start=begin + offset) for offset in range(500) for sampling in samplings
        ]
        tokens = np.array(runner.step(StepBatch(slices)).token_ids).reshape(-1, 2)
        np.add.at(joint, (tokens[:, 0], tokens[:, 1]), 1)
    shares = distribution(LOGITS, SamplingParams())
    expected = joint.sum() * np.outer(shares, shares)
    assert chi_square_is_plausible(joint[expected > 3], expected[expected > 3])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=300),
    st.integers(0, 40),
    st.sampled_from([1.0, 0.9, 0.5, 0.01]),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.integers(0, 2**64 - 1),
)
def test_only_tokens_of_the_exact_distribution_are_drawn(
    values: list[float], top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    logits = np.array(values, np.float32)
    sampling = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    (token,) = drawn(one_row(logits, max_sequences=1), [sampling], 3)
    shares = distribution(logits, sampling, slack=1e-4)
    # Equal logits may stand for each other where float32 rounds them together.
    assert shares[np.isclose(logits, logits[token], atol=1e-5)].sum() > 0


def test_temperature_zero_takes_the_first_of_the_greatest() -> None:
    assert drawn(one_row([1.0, 3.0, 3.0]), [GREEDY], 1) == [1]


def test_the_same_seed_choice_and_position_draw_the_same_number_and_others_do_not() -> None:
    numbers = {
        float(uniform(np.uint64(seed), choice, position))
        for seed in range(40)
        for choice in range(8)
        for position in range(40)
    }
    assert len(numbers) == 40 * 8 * 40
    assert uniform(np.uint64(3), 2, 4) == uniform(np.uint64(3), 2, 4)
    assert abs(np.mean(list(numbers)) - 0.5) < 0.02


def test_the_first_choices_numbers_are_splitmix64s_mixed_twice() -> None:
    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    for seed, position in [(0, 0), (7, 12), (2**64 - 1, 8191)]:
        state = (seed + (position + 1) * 0x9E3779B97F4A7C15) % 2**64
        assert uniform(np.uint64(seed), 0, position) == (mixed(mixed(state)) >> 11) / 2**53
