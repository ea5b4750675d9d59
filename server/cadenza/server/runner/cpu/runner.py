"""What both runners of a CPU program do alike: a step is handed over, computed by lanes, and read back."""

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cadenza.server.engine.request import GREEDY
from cadenza.server.runner.base import BlockCopy, RunnerLimits, SequenceSlice, StepBatch, StepResult
from cadenza.server.runner.cpu.hand_over import HandOver
from cadenza.server.runner.cpu.memory import HEAD_ROWS, StepMemory, step_memory
from cadenza.server.runner.cpu.options import CpuOptions
from cadenza.v1.manifest_pb2 import ModelManifest


class CpuRunner(abc.ABC):
    """Implements runner.base.Runner but for the lanes."""

    name: str
    """As --runner says it."""

    def __init__(
        self, pools: tuple[NDArray[Any], NDArray[Any]], vocabulary: int, limits: RunnerLimits
    ) -> None:
        """`pools`: keys and values, [L, B, ...]."""
        self._limits = limits
        self._pools = pools
        self._step: StepMemory = step_memory(
            limits.max_step_tokens,
            limits.max_sequences,
            context=limits.max_context,
            blocks=self._blocks,
            vocabulary=vocabulary,
        )
        self._hand_over = HandOver(self._step, vocabulary)

    @classmethod
    @abc.abstractmethod
    def load(cls, cpu_dir: Path, manifest: ModelManifest, options: CpuOptions) -> Self:
        """Loads the CPU program that `manifest` describes from `cpu_dir`.

        Raises LiteRTError where LiteRT refuses a file, ValueError where the options do not fit the model.
        """

    @property
    def limits(self) -> RunnerLimits:
        """What the runner can hold; constant."""
        return self._limits

    @property
    @abc.abstractmethod
    def lane_seconds(self) -> NDArray[np.float64]:
        """[lanes, 4] Seconds each lane has spent in linear layers, attention, head and sampling."""

    def warm_up(self) -> None:
        """Compiles or loads the kernels and touches the weights; block 0 is scribbled on."""
        one = SequenceSlice(token_ids=[0], start=0, block_table=[0], sampling=GREEDY)
        for size in (1, min(self._limits.block_size, self._limits.max_step_tokens)):
            self.step(StepBatch([dataclasses.replace(one, token_ids=[0] * size)]))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """[T, V] The logits after each token of one sequence, computed over blocks 0, 1, ...: for checks."""
        table = range(-(-len(token_ids) // self._limits.block_size))
        rows = []
        size = min(HEAD_ROWS, self._limits.max_sequences, self._limits.max_step_tokens)
        for begin in range(0, len(token_ids), size):
            part = enumerate(token_ids[begin : begin + size], begin)
            slices = [SequenceSlice([token_id], position, table, GREEDY) for position, token_id in part]
            rows.append(self._compute_logits(*self._take(StepBatch(slices))).copy())
        return np.concatenate(rows)

    def step(self, batch: StepBatch) -> StepResult:
        """Runs one step. Raises RunnerError where a program fails.

        Raises ValueError, before anything is computed, where a slice asks for more alternatives than
        MOST_ALTERNATIVES, or names a token that the model does not have.
        """
        self._compute(*self._take(batch))
        return self._hand_over.result(batch)

    def close(self) -> None:
        """Ends the lanes' threads and frees the memory: whoever still holds the runner holds none."""
        self._end_lanes()
        del self._pools, self._step, self._hand_over

    @property
    def _blocks(self) -> int:
        """KV blocks of the longest sequence."""
        return -(-self._limits.max_context // self._limits.block_size)

    def _take(self, batch: StepBatch) -> tuple[int, int]:
        """Writes the batch into the step's memory; returns its rows and head rows."""
        rows, heads = self._hand_over.fill(batch)
        for copy in batch.copies:
            self._copy(copy)
        self._step.meeting[0] = 0
        return rows, heads

    def _copy(self, copy: BlockCopy) -> None:
        for pool in self._pools:
            pool[:, copy.target] = pool[:, copy.source]

    @abc.abstractmethod
    def _compute(self, rows: int, heads: int) -> None:
        """Computes the step, of so many rows and head rows, that is in its memory."""

    @abc.abstractmethod
    def _compute_logits(self, rows: int, heads: int) -> NDArray[np.float32]:
        """The same for at most HEAD_ROWS head rows; returns their logits [heads, V] until the next step."""

    @abc.abstractmethod
    def _end_lanes(self) -> None:
        """Ends the threads and frees what they use."""
