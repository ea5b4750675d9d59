"""Biases and penalties against their written formulas, and against requests that ask for none."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.runner.bigram import BigramRunner, after, one_row, part
from tests.runner.exact import altered

from cadenza.server.engine.request import GREEDY, SamplingParams
from cadenza.server.runner.base import SequenceSlice, StepBatch
from cadenza.server.runner.cpu.penalties import add_biases, penalise

VOCABULARY = 23
tokens = st.integers(0, VOCABULARY - 1)
penalty = st.floats(-2, 2, width=32)


def some_logits(seed: int, vocabulary: int = VOCABULARY) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 4, vocabulary).astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1000),
    history=st.lists(tokens, min_size=1, max_size=60),
    prompt=st.integers(0, 60),
    biases=st.dictionaries(tokens, st.floats(-100, 100, width=32), max_size=VOCABULARY),
    repetition=st.floats(0.125, 4, width=32),
    presence=penalty,
    frequency=penalty,
)
def test_logits_are_altered_by_the_written_formulas(
    seed: int,
    history: list[int],
    prompt: int,
    biases: dict[int, float],
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    sampling = SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(biases.items()),
    )
    prompt = min(prompt, len(history))
    logits, counts = some_logits(seed), np.zeros(VOCABULARY, np.int32)
    expected = altered(logits, sampling, history, prompt)
    add_biases(logits, np.array(list(biases), np.int32), np.array(list(biases.values()), np.float32))
    penalties = (np.float32(value) for value in (repetition, presence, frequency))
    penalise(logits, np.array(history, np.int32), prompt, *penalties, counts)
    assert logits == pytest.approx(expected, rel=1e-6, abs=2e-5)
    assert not counts.any()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        # Logits 1.0, 3.0, 2.5 after the prompt 0 and the completion 1, 1.
        (GREEDY, 1),
        (dataclasses.replace(GREEDY, repetition_penalty=1.1), 1),
        (dataclasses.replace(GREEDY, repetition_penalty=1.3), 2),
        (dataclasses.replace(GREEDY, presence_penalty=0.4), 1),
        (dataclasses.replace(GREEDY, presence_penalty=0.6), 2),
        (dataclasses.replace(GREEDY, frequency_penalty=0.2), 1),
        (dataclasses.replace(GREEDY, frequency_penalty=0.3), 2),
        (dataclasses.replace(GREEDY, presence_penalty=0.3, frequency_penalty=0.15), 2),
        (dataclasses.replace(GREEDY, logit_bias=((0, 2.5),)), 0),
        (dataclasses.replace(GREEDY, logit_bias=((0, 2.5),), repetition_penalty=2.0), 2),
        (dataclasses.replace(GREEDY, logit_bias=((1, -100.0), (2, -100.0))), 0),
    ],
    ids=repr,
)
def test_greedy_choice_heeds_bias_and_penalties(sampling: SamplingParams, expected: int) -> None:
    runner = one_row([1.0, 3.0, 2.5])
    assert runner.step(StepBatch([after([0, 1, 1], 1, sampling)])).token_ids == [expected]


def test_presence_and_frequency_leave_the_prompts_tokens_alone() -> None:
    runner = one_row([1.0, 3.0, 2.5])
    sampling = dataclasses.replace(GREEDY, presence_penalty=2.0, frequency_penalty=2.0)
    assert runner.step(StepBatch([after([1, 1, 0], 3, sampling)])).token_ids == [1]


def mixed_slices() -> list[SequenceSlice]:
    """Requests that ask for nothing, for penalties, for biases and for log-probabilities, in turn."""
    chance = np.random.default_rng(1)
    kinds = [
        SamplingParams(temperature=0.9),
        SamplingParams(repetition_penalty=1.4, frequency_penalty=0.5),
        SamplingParams(logit_bias=((3, 4.0), (9, -3.0), (11, 2.0))),
        SamplingParams(top_p=0.9, logprobs=4),
        SamplingParams(presence_penalty=1.5, logit_bias=((5, 5.0),), logprobs=2),
        GREEDY,
    ]
    slices = []
    for index in range(48):
        sampling = dataclasses.replace(kinds[index % len(kinds)], seed=index, choice=index % 3)
        history = chance.integers(0, VOCABULARY, 1 + index % 17).tolist()
        slices.append(after(history, len(history) // 2, sampling))
    return slices


def test_a_requests_answer_is_the_same_whatever_its_neighbours_ask() -> None:
    runner = BigramRunner(np.stack([some_logits(seed) for seed in range(VOCABULARY)]))
    slices = mixed_slices()
    alone = [runner.step(StepBatch([asking])) for asking in slices]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(slices)).tolist()
        together = runner.step(StepBatch([slices[index] for index in order]))
        assert together.token_ids == [alone[index].token_ids[0] for index in order]
        for place, index in enumerate(order):
            assert together.logprobs.get(place) == alone[index].logprobs.get(0)


def test_penalties_without_the_whole_history_are_refused() -> None:
    sampling = SamplingParams(presence_penalty=1.0)
    with pytest.raises(ValueError, match="all 3 tokens up to the last; given: 0"):
        one_row([0.0, 1.0]).step(StepBatch([part([1], sampling, start=2)]))


@pytest.mark.parametrize("token_id", [-1, VOCABULARY])
def test_biases_of_tokens_that_the_model_lacks_are_refused(token_id: int) -> None:
    sampling = SamplingParams(logit_bias=((token_id, 1.0),))
    with pytest.raises(
        ValueError, match=f"biases of tokens {token_id} to {token_id}: token ids lie in 0..22"
    ):
        one_row(some_logits(0)).step(StepBatch([part([1], sampling)]))


def test_a_token_with_two_biases_is_refused() -> None:
    sampling = SamplingParams(logit_bias=((1, 1.0), (1, 2.0)))
    with pytest.raises(ValueError, match="more than one bias"):
        one_row(some_logits(0)).step(StepBatch([part([1], sampling)]))
