"""Drives a runner the way the engine does, but without the engine: every job's next tokens, step by step."""

import dataclasses
from array import array
from collections.abc import Sequence

from cadenza.server.engine.request import GREEDY, SamplingParams, TokenLogprob
from cadenza.server.runner.base import BlockCopy, Runner, SequenceSlice, StepBatch


@dataclasses.dataclass(frozen=True)
class Job:
    """A prompt to complete."""

    prompt: Sequence[int]
    sampling: SamplingParams = GREEDY
    count: int = 8
    """Tokens to generate."""
    blocks: Sequence[int] | None = None
    """Its block table; None is the blocks behind those of the jobs before it."""
    computed: int = 0
    """Tokens of the prompt that are in the cache already."""
    prompt_alternatives: int | None = None
    """Alternatives for each of the prompt's tokens but the first; None wants no log-probabilities of them."""
    drafts: Sequence[int] = ()
    """What new tokens are guessed to be; all that are left are checked in every step."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a job has got."""

    token_ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)


def complete(
    runner: Runner, jobs: Sequence[Job], *, chunk: int = 64, copies: Sequence[BlockCopy] = ()
) -> list[Answer]:
    """Completes all jobs in one batch, `chunk` tokens of a prompt at a time; copies go to the first step."""
    runs = _runs(jobs, runner.limits.block_size)
    while active := _active(runs, runner, chunk):
        slices = [run.slice(size) for run, size in active]
        result = runner.step(StepBatch(slices, copies))
        copies = ()
        for index, (run, size) in enumerate(active):
            logprobs = result.logprobs.get(index, ())
            run.take(size, result.token_ids[index], logprobs, result.accepted.get(index, 0))
    return [run.answer for run in runs]


def answer(runner: Runner, job: Job, *, chunk: int = 64) -> Answer:
    """What a job gets alone."""
    return complete(runner, [job], chunk=chunk)[0]


class _Run:
    def __init__(self, job: Job, blocks: Sequence[int]) -> None:
        self.job = job
        self.blocks = array("i", blocks)
        self.token_ids = array("i", job.prompt)
        self.computed = job.computed
        self.answer = Answer()

    @property
    def pending(self) -> int:
        if len(self.answer.token_ids) == self.job.count:
            return 0
        return len(self.token_ids) - self.computed

    def slice(self, size: int) -> SequenceSlice:
        end = self.computed + size
        sampling = self.job.sampling if size == self.pending else None
        alternatives = self.job.prompt_alternatives
        drafts = self.drafts(size)
        return SequenceSlice(
            token_ids=self.token_ids[self.computed : end] + drafts,
            start=self.computed,
            block_table=self.blocks,
            sampling=sampling,
            history=self.token_ids + drafts if sampling is not None and sampling.needs_history else (),
            num_drafts=len(drafts),
            prompt_length=len(self.job.prompt),
            targets=() if alternatives is None else self._targets(end),
            target_alternatives=alternatives or 0,
        )

    def _targets(self, end: int) -> Sequence[int]:
        return self.token_ids[self.computed + 1 : min(end + 1, len(self.job.prompt))]

    def drafts(self, size: int) -> "array[int]":
        known = len(self.answer.token_ids)
        decoding = known > 0 and size == self.pending
        return array("i", self.job.drafts[known : self.job.count - 1] if decoding else ())

    def take(self, size: int, token_id: int, logprobs: Sequence[TokenLogprob], accepted: int) -> None:
        targets = 0 if self.job.prompt_alternatives is None else len(self._targets(self.computed + size))
        self.answer.prompt_logprobs.extend(logprobs[:targets])
        self.answer.logprobs.extend(logprobs[targets:])
        chosen = size == self.pending
        assert (token_id >= 0) == chosen, token_id
        if chosen:
            new = [*self.drafts(size)[:accepted], token_id]
            self.token_ids.extend(new)
            self.answer.token_ids.extend(new)
        self.computed += size + accepted


def _runs(jobs: Sequence[Job], block_size: int) -> list[_Run]:
    runs, end = [], 0
    for job in jobs:
        size = -(-(len(job.prompt) + job.count) // block_size)
        runs.append(_Run(job, range(end, end + size) if job.blocks is None else job.blocks))
        end += size
    return runs


def _active(runs: Sequence[_Run], runner: Runner, chunk: int) -> list[tuple[_Run, int]]:
    """Whom the next step advances, and by how many tokens."""
    room = runner.limits.max_step_tokens
    active: list[tuple[_Run, int]] = []
    for run in runs:
        size = min(chunk, run.pending, room)
        if size and len(active) < runner.limits.max_sequences:
            active.append((run, size))
            room -= size
    return active
