"""The runner of one GPU, TPU core or, for tests and artifacts without a CPU program, of the CPU.

A step's slices are sorted into calls of compiled shapes (buckets.py); then one call per kind of sampler
chooses the tokens of all slices. Weights, KV cache and hidden states stay on the device.
"""

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import structlog
import tensorflow as tf

from cadenza.server.runner.base import BlockCopy, RunnerError, RunnerLimits, StepBatch, StepResult
from cadenza.server.runner.tensorflow.buckets import COPIES, HEAD_ROWS, Bucket, Buckets, Call
from cadenza.server.runner.tensorflow.hand_over import (
    AdvanceArrays,
    Found,
    Head,
    Kind,
    advance_arrays,
    alteration_arrays,
    blocks_of,
    draw_arrays,
    read_heads,
    step_result,
)
from cadenza.server.runner.tensorflow.programs import Programs, StepProgram

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSizes:
    """What the runner must know of a model's shape."""

    hidden_size: int
    vocabulary: int


class TensorFlowRunner:
    """Implements runner.base.Runner on one device of TensorFlow."""

    def __init__(
        self,
        program: StepProgram,
        limits: RunnerLimits,
        sizes: ModelSizes,
        *,
        device: str,
        jit: bool = True,
        on_compile: Callable[[], None] = lambda: None,
    ) -> None:
        """`program` has its weights and a KV cache of limits.num_blocks blocks on `device`, such as "/gpu:0".

        `jit` False computes with the plain graph: for tests.
        """
        self._limits = limits
        self._sizes = sizes
        self._device = device
        self._buckets = Buckets(limits)
        with tf.device(device):
            self._programs = Programs(
                program,
                limits,
                self._buckets,
                hidden_size=sizes.hidden_size,
                vocabulary=sizes.vocabulary,
                jit=jit,
                on_compile=on_compile,
            )

    @property
    def limits(self) -> RunnerLimits:
        """What the runner can hold; constant."""
        return self._limits

    def warm_up(self) -> None:
        """Compiles and runs every shape; writes nothing but the scratch block. Raises RunnerError."""
        work = list(self._warm_up_work())
        begin = time.monotonic()
        for number, (name, run) in enumerate(work, 1):
            started = time.monotonic()
            with _step_errors(), tf.device(self._device):
                run()
            seconds = round(time.monotonic() - started, 2)
            _log.info("compiled", bucket=f"{number} of {len(work)}", shape=name, seconds=seconds)
        _log.info("all_compiled", buckets=len(work), seconds=round(time.monotonic() - begin, 1))

    def step(self, batch: StepBatch) -> StepResult:
        """Runs one step. Raises RunnerError where the device cannot.

        Raises ValueError, before anything is computed, where a slice asks for what no model could answer.
        """
        heads = read_heads(batch, self._sizes.vocabulary)
        with _step_errors(), tf.device(self._device):
            self._copy(batch.copies)
            for bucket, arrays in advance_arrays(batch, heads, self._plan(batch), self._limits):
                self._programs.advance(bucket, arrays)
            return step_result(batch, heads, self._sample(heads))

    def close(self) -> None:
        """Gives the device's memory back."""
        del self._programs
        gc.collect()

    def _plan(self, batch: StepBatch) -> list[Call]:
        lengths = [len(part.token_ids) for part in batch.slices]
        blocks = [blocks_of(part, self._limits.block_size) for part in batch.slices]
        return self._buckets.plan(lengths, blocks)

    def _copy(self, copies: Sequence[BlockCopy]) -> None:
        for begin in range(0, len(copies), COPIES):
            pairs = np.full((2, COPIES), self._limits.num_blocks, np.int32)
            for index, copy in enumerate(copies[begin : begin + COPIES]):
                pairs[:, index] = copy.source, copy.target
            self._programs.copy(pairs[0], pairs[1])

    def _sample(self, heads: Sequence[Head]) -> list[Found]:
        """What the samplers find, by head. All calls are begun before the first is waited for."""
        rows: dict[Kind, list[int]] = {}
        for index, head in enumerate(heads):
            rows.setdefault(head.kind, []).append(index)
        begun = [call for kind, indices in rows.items() for call in self._begin(kind, heads, indices)]
        found: dict[int, Found] = {}
        for indices, read in begun:
            found.update(zip(indices, read(), strict=False))
        return [found[index] for index in range(len(heads))]

    def _begin(
        self, kind: Kind, heads: Sequence[Head], indices: list[int]
    ) -> Iterator[tuple[list[int], Callable[[], list[Found]]]]:
        if kind is Kind.FULL:
            for begin in range(0, len(indices), HEAD_ROWS):
                part = indices[begin : begin + HEAD_ROWS]
                yield part, self._full([heads[index] for index in part])
            return
        for begin, end, rows in self._buckets.sampler_calls(len(indices)):
            part = indices[begin:end]
            arrays = draw_arrays([heads[index] for index in part], rows, self._scratch)
            if kind is Kind.GREEDY:
                yield part, _tokens(self._programs.greedy(arrays.slots))
            else:
                yield part, _tokens(self._programs.drawn(arrays))

    @property
    def _scratch(self) -> int:
        """The slot that nobody reads."""
        return self._limits.max_step_tokens

    def _full(self, heads: Sequence[Head]) -> Callable[[], list[Found]]:
        draws = draw_arrays(heads, HEAD_ROWS, self._scratch)
        context, vocabulary = self._limits.max_context, self._sizes.vocabulary
        alterations = alteration_arrays(heads, HEAD_ROWS, context, vocabulary)
        token_ids, logprobs = self._programs.full(draws, alterations)

        def read() -> list[Found]:
            columns = [tensor.numpy().tolist() for tensor in (token_ids, *logprobs)]
            return [
                Found(token_id, logprob, tuple(zip(ids, values, strict=True)))
                for token_id, logprob, ids, values in zip(*columns, strict=True)
            ]

        return read

    def _warm_up_work(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Every compiled shape by a name, with nothing but padding to compute."""
        for bucket in self._buckets.all:
            name = f"advance {bucket.rows} x {bucket.columns} over {bucket.blocks} blocks"
            yield name, partial(self._programs.advance, bucket, self._nothing(bucket))
        for rows in self._buckets.sampler_rows:
            arrays = draw_arrays([], rows, self._scratch)
            yield f"greedy {rows}", partial(self._programs.greedy, arrays.slots)
            yield f"drawn {rows}", partial(self._programs.drawn, arrays)
        yield f"full {HEAD_ROWS}", partial(self._full, [])
        scratch = np.full(COPIES, self._limits.num_blocks, np.int32)
        yield f"copy {COPIES}", partial(self._programs.copy, scratch, scratch)

    def _nothing(self, bucket: Bucket) -> AdvanceArrays:
        rows, columns = bucket.rows, bucket.columns
        zeros = np.zeros(rows, np.int32)
        return AdvanceArrays(
            np.zeros((rows, columns), np.int32),
            zeros,
            zeros,
            np.full((rows, bucket.blocks), self._limits.num_blocks, np.int32),
            np.full((rows, columns), self._scratch, np.int32),
        )


def _tokens(token_ids: tf.Tensor) -> Callable[[], list[Found]]:
    """Reads a sampler's tokens, int32 [N], once they are there."""
    return lambda: [Found(token_id) for token_id in token_ids.numpy().tolist()]


@contextmanager
def _step_errors() -> Iterator[None]:
    """Raises RunnerError where TensorFlow fails."""
    try:
        yield
    except tf.errors.OpError as error:
        raise RunnerError(f"TensorFlow failed: {error.message}") from error
