"""Between the engine's batch and compiled calls: arrays are made of a batch, a result of what comes back.

Every row of hidden states that a head needs gets a slot of a table on the device; the others go to the slot
behind the last, which nobody reads.
"""

import dataclasses
import enum
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cadenza.server.engine.request import SamplingParams, TokenLogprob
from cadenza.server.runner.base import (
    NO_TOKEN,
    NOT_FINITE,
    RunnerLimits,
    SequenceSlice,
    StepBatch,
    StepResult,
)
from cadenza.server.runner.checks import check_alternatives, check_biases, check_history, check_token_ids
from cadenza.server.runner.tensorflow.buckets import Bucket, Call

MOST_BIASES = 300
"""Of one request."""

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class Kind(enum.Enum):
    """What a row of hidden states is for; each is compiled apart, so that plain requests pay for nothing."""

    GREEDY = "greedy"
    DRAWN = "drawn"
    FULL = "full"
    """With biases, penalties or log-probabilities."""


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """One row whose logits are wanted: to choose a token by `sampling`, or to judge `target`."""

    part: SequenceSlice
    slice: int
    slot: int
    sampling: SamplingParams | None
    target: int = NO_TOKEN
    alternatives: int | None = None
    """None: no log-probability is wanted."""

    @property
    def kind(self) -> Kind:
        """Which sampler it needs."""
        sampling = self.sampling
        if sampling is None or self.alternatives is not None:
            return Kind.FULL
        if sampling.needs_history or sampling.logit_bias:
            return Kind.FULL
        return Kind.GREEDY if sampling.temperature == 0 else Kind.DRAWN


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a sampler found for a row; no more than the token for kinds other than FULL."""

    token_id: int
    logprob: float = 0.0
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AdvanceArrays:
    """The arguments of one call that advances sequences."""

    token_ids: Ints
    """[R, C]"""
    starts: Ints
    """[R], and so are lengths."""
    lengths: Ints
    tables: Ints
    """[R, P]"""
    slots: Ints
    """[R, C]: where each token's hidden state goes."""


def read_heads(batch: StepBatch, vocabulary: int) -> list[Head]:
    """The rows whose logits are wanted, in the order of slices, targets first.

    Raises ValueError where a slice asks for what no model could answer, or more than 300 biases.
    """
    heads: list[Head] = []
    slots = 0
    for index, part in enumerate(batch.slices):
        check_token_ids("a slice", part.token_ids, vocabulary)
        if part.targets:
            check_token_ids("targets", part.targets, vocabulary)
            count = check_alternatives(part.target_alternatives)
            heads += [
                Head(part, index, slots + offset, None, target, count)
                for offset, target in enumerate(part.targets)
            ]
            slots += len(part.targets)
        if part.sampling is not None:
            _check_sampling(part, part.sampling, vocabulary)
            slots += len(part.targets) < len(part.token_ids)
            heads.append(Head(part, index, slots - 1, part.sampling, alternatives=part.sampling.logprobs))
    return heads


def _check_sampling(part: SequenceSlice, sampling: SamplingParams, vocabulary: int) -> None:
    if sampling.logprobs is not None:
        check_alternatives(sampling.logprobs)
    if sampling.needs_history:
        check_history(part)
    if len(sampling.logit_bias) > MOST_BIASES:
        raise ValueError(f"{len(sampling.logit_bias)} biases were given; at most {MOST_BIASES} can be had")
    if sampling.logit_bias:
        check_biases(sampling.logit_bias, vocabulary)


def advance_arrays(
    batch: StepBatch, heads: Sequence[Head], calls: Sequence[Call], limits: RunnerLimits
) -> Iterator[tuple[Bucket, AdvanceArrays]]:
    """The arguments of each call."""
    slots: dict[int, list[int]] = {}
    for head in heads:
        own = slots.setdefault(head.slice, [])
        if head.slot not in own[-1:]:
            own.append(head.slot)
    for call in calls:
        yield call.bucket, _arrays(batch, call, slots, limits)


def _arrays(batch: StepBatch, call: Call, slots: dict[int, list[int]], limits: RunnerLimits) -> AdvanceArrays:
    bucket = call.bucket
    token_ids = np.zeros((bucket.rows, bucket.columns), np.int32)
    places = np.full((bucket.rows, bucket.columns), limits.max_step_tokens, np.int32)
    tables = np.full((bucket.rows, bucket.blocks), limits.num_blocks, np.int32)
    starts = np.zeros(bucket.rows, np.int32)
    lengths = np.zeros(bucket.rows, np.int32)
    for number, row in enumerate(call.rows):
        part = batch.slices[row.slice]
        used = -(-(part.start + row.end) // limits.block_size)
        token_ids[number, : row.end - row.begin] = part.token_ids[row.begin : row.end]
        tables[number, :used] = part.block_table[:used]
        starts[number], lengths[number] = part.start + row.begin, row.end - row.begin
        for offset, slot in enumerate(slots.get(row.slice, ())):
            at = offset if offset < len(part.targets) else len(part.token_ids) - 1
            if row.begin <= at < row.end:
                places[number, at - row.begin] = slot
    return AdvanceArrays(token_ids, starts, lengths, tables, places)


def blocks_of(part: SequenceSlice, block_size: int) -> int:
    """KV blocks that a slice's positions, from 0 to its last, span."""
    return -(-(part.start + len(part.token_ids)) // block_size)


@dataclasses.dataclass(frozen=True, slots=True)
class DrawArrays:
    """How each of N rows draws."""

    slots: Ints
    """[N]"""
    ints: Ints
    """[N, 3]: top_k, choice, position of the new token."""
    floats: Floats
    """[N, 3]: temperature, top_p, min_p."""
    seeds: NDArray[np.uint64]
    """[N]"""


@dataclasses.dataclass(frozen=True, slots=True)
class AlterationArrays:
    """What alters the logits of N rows, and which tokens are judged."""

    targets: Ints
    """[N], NO_TOKEN where one is to be chosen."""
    penalties: Floats
    """[N, 3]: repetition, presence, frequency."""
    history: Ints
    """[N, H], V behind the last token."""
    prompt_lengths: Ints
    """[N]"""
    bias_ids: Ints
    """[N, 300], V behind the last."""
    biases: Floats


def draw_arrays(heads: Sequence[Head], rows: int, scratch: int) -> DrawArrays:
    """For `heads`, padded with rows that are greedy; `scratch` is a slot whose hidden state means nothing."""
    slots = np.full(rows, scratch, np.int32)
    ints = np.zeros((rows, 3), np.int32)
    floats = np.zeros((rows, 3), np.float32)
    floats[:, 1] = 1.0
    seeds = np.zeros(rows, np.uint64)
    for row, head in enumerate(heads):
        slots[row] = head.slot
        if head.sampling is not None:
            one = head.sampling
            position = head.part.start + len(head.part.token_ids)
            ints[row] = min(one.top_k, np.iinfo(np.int32).max), one.choice, position
            floats[row] = one.temperature, one.top_p, one.min_p
            seeds[row] = one.seed
    return DrawArrays(slots, ints, floats, seeds)


def alteration_arrays(heads: Sequence[Head], rows: int, context: int, vocabulary: int) -> AlterationArrays:
    """For `heads`, padded with rows that nothing alters."""
    targets = np.full(rows, NO_TOKEN, np.int32)
    penalties = np.tile(np.array([1, 0, 0], np.float32), (rows, 1))
    history = np.full((rows, context), vocabulary, np.int32)
    prompt_lengths = np.zeros(rows, np.int32)
    bias_ids = np.full((rows, MOST_BIASES), vocabulary, np.int32)
    biases = np.zeros((rows, MOST_BIASES), np.float32)
    for row, head in enumerate(heads):
        targets[row] = head.target
        one = head.sampling
        if one is None:
            continue
        if one.needs_history:
            penalties[row] = one.repetition_penalty, one.presence_penalty, one.frequency_penalty
            history[row, : len(head.part.history)] = head.part.history
            prompt_lengths[row] = head.part.prompt_length
        if one.logit_bias:
            count = len(one.logit_bias)
            bias_ids[row, :count], biases[row, :count] = zip(*one.logit_bias, strict=True)
    return AlterationArrays(targets, penalties, history, prompt_lengths, bias_ids, biases)


def step_result(batch: StepBatch, heads: Sequence[Head], found: Sequence[Found]) -> StepResult:
    """What the heads' rows say of the batch; found[i] is of heads[i]."""
    token_ids = [NO_TOKEN] * len(batch.slices)
    logprobs: dict[int, list[TokenLogprob]] = {}
    for head, one in zip(heads, found, strict=True):
        if NOT_FINITE in (one.token_id, token_ids[head.slice]):
            token_ids[head.slice] = NOT_FINITE
            logprobs.pop(head.slice, None)
            continue
        if head.sampling is not None:
            token_ids[head.slice] = one.token_id
        if head.alternatives is not None:
            best = tuple(pair for pair in one.alternatives[: head.alternatives] if pair[0] != NO_TOKEN)
            logprobs.setdefault(head.slice, []).append(TokenLogprob(one.token_id, one.logprob, best))
    return StepResult(token_ids, logprobs)
