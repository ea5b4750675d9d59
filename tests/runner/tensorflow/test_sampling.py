"""The sampler in the graph chooses what the CPU runner's kernels choose, from the same logits."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runner.bigram import BigramRunner, after
from tests.runner.tensorflow.bigram_program import LIMITS, bigram_runner

from cadenza.server.engine.request import GREEDY, SamplingParams, TokenLogprob
from cadenza.server.runner.base import NOT_FINITE, SequenceSlice, StepBatch
from cadenza.server.runner.tensorflow.runner import TensorFlowRunner

VOCABULARY = 2100
"""More than twice what is sorted at first, and no multiple of the segment."""
CASES = 24 * LIMITS.max_sequences


@pytest.fixture(scope="module")
def table() -> NDArray[np.float32]:
    """Rows of logits from flat to steep; some with ties, some that forbid most tokens."""
    chance = np.random.default_rng(1)
    table = chance.normal(0, 1, (VOCABULARY, VOCABULARY)).astype(np.float32)
    table *= chance.choice([0.01, 0.5, 2.0, 6.0], VOCABULARY).astype(np.float32)[:, None]
    table[::7] = np.round(table[::7])
    table[3::11, 5:] = -np.inf
    return table


@pytest.fixture(scope="module")
def cpu(table: NDArray[np.float32]) -> BigramRunner:
    return BigramRunner(table)


@pytest.fixture(scope="module")
def graph(table: NDArray[np.float32]) -> TensorFlowRunner:
    return bigram_runner(table)


def batches(cases: Sequence[SequenceSlice]) -> list[StepBatch]:
    size = LIMITS.max_sequences
    return [StepBatch(cases[begin : begin + size]) for begin in range(0, len(cases), size)]


def some_samplings(count: int) -> list[SamplingParams]:
    """Every option at every extreme, mixed."""
    chance = np.random.default_rng(2)
    pick = chance.choice
    return [
        SamplingParams(
            temperature=float(pick([0.0, 0.3, 1.0, 4.0])),
            top_k=int(pick([0, 0, 1, 7, 1024, 1025, 2099, 5000])),
            top_p=float(pick([1.0, 1.0, 0.99, 0.8, 0.1, 1e-6])),
            min_p=float(pick([0.0, 0.0, 0.02, 0.5, 1.0])),
            seed=int(chance.integers(0, 2**64, dtype=np.uint64)),
            choice=int(pick([0, 1, 15])),
        )
        for _ in range(count)
    ]


def test_every_way_of_drawing_gives_the_cpu_runners_tokens(
    cpu: BigramRunner, graph: TensorFlowRunner
) -> None:
    chance = np.random.default_rng(3)
    cases = [
        SequenceSlice([int(chance.integers(VOCABULARY))], int(chance.integers(60)), range(16), sampling)
        for sampling in some_samplings(CASES)
    ]
    for batch in batches(cases):
        assert graph.step(batch).token_ids == list(cpu.step(batch).token_ids)


def test_alterations_and_logprobs_are_the_cpu_runners(cpu: BigramRunner, graph: TensorFlowRunner) -> None:
    chance = np.random.default_rng(4)
    cases = []
    for sampling in some_samplings(CASES // 2):
        ids = chance.choice(VOCABULARY, 300, replace=False).tolist()
        history = chance.integers(0, 40, 1 + int(chance.integers(60))).tolist()
        altered = dataclasses.replace(
            sampling,
            repetition_penalty=float(chance.choice([1.0, 1.3, 0.7])),
            presence_penalty=float(chance.choice([0.0, 1.5, -1.0])),
            frequency_penalty=float(chance.choice([0.0, 0.4])),
            logit_bias=tuple(
                (token, float(chance.normal(0, 3))) for token in ids[: chance.choice([0, 3, 300])]
            ),
            logprobs=[None, 0, 3, 20][chance.integers(4)],
        )
        cases.append(after(history, len(history) // 2, altered))
    for batch in batches([dataclasses.replace(case, block_table=range(16)) for case in cases]):
        expected, found = cpu.step(batch), graph.step(batch)
        assert found.token_ids == list(expected.token_ids)
        assert found.logprobs.keys() == expected.logprobs.keys()
        for index, entries in expected.logprobs.items():
            check_equal(found.logprobs[index], entries)


def check_equal(found: Sequence[TokenLogprob], expected: Sequence[TokenLogprob]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert [token_id for token_id, _ in one.alternatives] == [
            token_id for token_id, _ in other.alternatives
        ]
        assert [logprob for _, logprob in one.alternatives] == pytest.approx(
            [logprob for _, logprob in other.alternatives], abs=1e-5
        )


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_fail_their_own_row_alone(poison: float) -> None:
    table = np.random.default_rng(6).normal(0, 2, (31, 31)).astype(np.float32)
    table[4] = poison if poison < 0 else table[4]
    table[4, 9] = poison
    runner = bigram_runner(table)
    for sampling in (GREEDY, SamplingParams(seed=1), SamplingParams(seed=1, logprobs=2)):
        parts = [SequenceSlice([token], 0, [0], sampling) for token in (3, 4, 5)]
        result = runner.step(StepBatch(parts))
        assert [token == NOT_FINITE for token in result.token_ids] == [False, True, False]
        assert 1 not in result.logprobs


def test_a_target_behind_logits_that_are_not_finite_fails_its_slice() -> None:
    table = np.random.default_rng(6).normal(0, 2, (31, 31)).astype(np.float32)
    table[4, 9] = np.nan
    bad = SequenceSlice([4, 5], 0, [0], GREEDY, targets=[5], target_alternatives=1)
    good = SequenceSlice([3, 5], 0, [1], GREEDY, targets=[5], target_alternatives=1)
    result = bigram_runner(table).step(StepBatch([bad, good]))
    assert list(result.token_ids) == [NOT_FINITE, int(table[5].argmax())]
    assert list(result.logprobs) == [1]


def test_more_biases_than_the_compiled_shape_has_are_refused(graph: TensorFlowRunner) -> None:
    sampling = SamplingParams(logit_bias=tuple((token, 1.0) for token in range(301)))
    with pytest.raises(ValueError, match="301 biases were given; at most 300"):
        graph.step(StepBatch([SequenceSlice([1], 0, [0], sampling)]))
