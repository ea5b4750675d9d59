"""The CPU runner's answers are equal bit for bit, whatever else runs, on the real model.

Answers hold log-probabilities with 20 alternatives: each depends on every logit of its row, and they are
compared as they are, without tolerance.
"""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.real.cpu_program import KINDS, load_runner, step_logits
from tests.real.saved_model import load_logits
from tests.runner.conformance import some_samplings
from tests.runner.driver import Answer, Job, answer, complete
from tests.runner.exact import log_softmax

from cadenza.server.engine.request import GREEDY, SamplingParams
from cadenza.server.runner.base import BlockCopy, SequenceSlice, StepBatch
from cadenza.server.runner.cpu.runner import CpuRunner

pytestmark = pytest.mark.real_model

BLOCKS = 320
"""More than all jobs together need, and in the pool of every runner here."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[CpuRunner]:
    found: type[CpuRunner] = request.param
    return found


@pytest.fixture(scope="module")
def one_lane(real_int8: Path, kind: type[CpuRunner]) -> Iterator[CpuRunner]:
    runner = load_runner(real_int8, kind, lanes=1)
    yield runner
    runner.close()


@pytest.fixture(scope="module", params=[1, 2, 3], ids="{} lanes".format)
def runner(real_int8: Path, kind: type[CpuRunner], request: pytest.FixtureRequest) -> Iterator[CpuRunner]:
    runner = load_runner(real_int8, kind, lanes=request.param)
    yield runner
    runner.close()


def tokens(count: int, seed: int) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(100, 49152) for _ in range(count)]


def every_kind() -> list[Job]:
    """Prompts of 3 to 87 tokens with every option; all tell 20 log-probabilities of each new token, half of
    the jobs also those of the prompt.
    """
    return [
        Job(
            tokens(3 + 6 * index, seed=index),
            dataclasses.replace(sampling, logprobs=20, seed=index),
            count=5,
            prompt_alternatives=3 if index % 2 else None,
        )
        for index, sampling in enumerate(2 * some_samplings()[:7] + some_samplings()[7:])
    ]


@pytest.fixture(scope="module")
def alone(one_lane: CpuRunner) -> list[Answer]:
    """What every job gets alone on one lane, its prompt in one step."""
    return [answer(one_lane, job, chunk=128) for job in every_kind()]


@pytest.mark.parametrize("chunk", [4, 29, 128])
def test_answers_are_equal_in_any_batch_in_any_chunks_in_any_blocks_and_on_any_number_of_lanes(
    runner: CpuRunner, alone: list[Answer], chunk: int
) -> None:
    chance = random.Random(chunk)
    order = chance.sample(range(len(alone)), len(alone))
    free = chance.sample(range(BLOCKS), BLOCKS)
    jobs = [
        dataclasses.replace(every_kind()[index], blocks=free[8 * index : 8 * index + 8]) for index in order
    ]
    assert complete(runner, jobs, chunk=chunk) == [alone[index] for index in order]


def test_what_a_job_asks_for_does_not_change_its_neighbours(runner: CpuRunner, one_lane: CpuRunner) -> None:
    prompts = [tokens(9, seed) for seed in range(6)]
    askers = some_samplings()[1:]
    slices: list[SequenceSlice] = []
    for index, prompt in enumerate(prompts):
        slices.append(SequenceSlice(prompt, 0, [2 * index], GREEDY))
        asking = askers[index % len(askers)]
        slices.append(
            SequenceSlice(
                prompt, 0, [2 * index + 1], asking,
                history=prompt, prompt_length=4, targets=prompt[1:3], target_alternatives=20,
            )
        )  # fmt: skip
    found = step_logits(runner, StepBatch(slices))
    for index, plain in enumerate(slices[::2]):
        expected = step_logits(one_lane, StepBatch([plain]))
        # A plain slice has one head row, one that asks has two targets and a choice.
        assert np.array_equal(found[4 * index], expected[0])
        targets = one_lane.logits(plain.token_ids)[:2]
        assert np.array_equal(found[4 * index + 1 : 4 * index + 3], targets)


def test_answers_from_copied_and_shared_blocks_are_equal(runner: CpuRunner, alone: list[Answer]) -> None:
    jobs = every_kind()
    index = max(range(len(jobs)), key=lambda index: len(jobs[index].prompt) * (index % 2 == 0))
    job, computed = jobs[index], 80
    assert len(job.prompt) > computed
    answer(runner, Job(job.prompt[:computed], count=1, blocks=[40, 11, 23]))
    copies = [BlockCopy(source=23, target=77), BlockCopy(source=11, target=30)]
    forks = [
        dataclasses.replace(job, blocks=[40, 11, 77, 5], computed=computed),
        dataclasses.replace(job, blocks=[40, 30, 23, 6], computed=computed),
    ]
    assert complete(runner, forks, copies=copies) == [alone[index]] * 2


def test_greedy_and_drawn_tokens_are_equal_with_log_probabilities_and_without(
    runner: CpuRunner, alone: list[Answer]
) -> None:
    jobs = [
        dataclasses.replace(job, sampling=dataclasses.replace(job.sampling, logprobs=None))
        for job in every_kind()
    ]
    found = complete(runner, jobs)
    assert [one.token_ids for one in found] == [one.token_ids for one in alone]


def test_prompt_log_probabilities_are_those_of_the_models_logits(
    one_lane: CpuRunner, alone: list[Answer]
) -> None:
    for job, found in list(zip(every_kind(), alone, strict=True))[1::2]:
        rows = log_softmax(one_lane.logits(job.prompt[:-1]))
        assert len(found.prompt_logprobs) == len(job.prompt) - 1
        for row, token_id, entry in zip(rows, job.prompt[1:], found.prompt_logprobs, strict=True):
            assert entry.token_id == token_id
            assert entry.logprob == pytest.approx(row[token_id], abs=1e-5)
            best = np.argsort(-row, kind="stable")[:3]
            assert [logprob for _, logprob in entry.alternatives] == pytest.approx(row[best], abs=1e-5)


def test_float32_log_probabilities_are_the_saved_models(real_float32: Path) -> None:
    prompt: Sequence[int] = tokens(60, seed=1)
    runner = load_runner(real_float32)
    try:
        found = answer(runner, Job(prompt, SamplingParams(logprobs=0), count=4, prompt_alternatives=0))
    finally:
        runner.close()
    told = [entry.logprob for entry in found.prompt_logprobs + found.logprobs]
    continued = [*prompt, *found.token_ids]
    rows = log_softmax(load_logits(real_float32)(continued[:-1]))
    assert told == pytest.approx(rows[np.arange(len(rows)), continued[1:]], abs=1e-3)
