"""A runner on logits that a test gives: those after a token are a row of a table.

Whatever follows the logits is the CPU runner's own: how a batch is handed over, the kernels, how a result is
read.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cadenza.server.engine.request import SamplingParams
from cadenza.server.runner.base import RunnerLimits, SequenceSlice, StepBatch, StepResult
from cadenza.server.runner.cpu.hand_over import HandOver
from cadenza.server.runner.cpu.head import finish_row
from cadenza.server.runner.cpu.memory import step_memory
from cadenza.server.runner.litert.lane_memory import LaneMemory

BLOCK_SIZE = 4


class BigramRunner:
    """Implements Runner; `table[token_id]` are the logits after a token, [V, V] float32."""

    def __init__(self, table: NDArray[np.float32], *, max_sequences: int = 64, max_context: int = 64) -> None:
        vocabulary = len(table)
        self.table = table
        self.limits = RunnerLimits(
            block_size=BLOCK_SIZE,
            num_blocks=max_sequences * max_context // BLOCK_SIZE,
            max_step_tokens=2 * max_sequences,
            max_sequences=max_sequences,
            max_context=max_context,
        )
        self._step = step_memory(
            self.limits.max_step_tokens,
            max_sequences,
            context=max_context,
            blocks=max_context // BLOCK_SIZE,
            vocabulary=vocabulary,
        )
        self._lane = _lane_memory(vocabulary)
        self._hand_over = HandOver(self._step, vocabulary)

    def step(self, batch: StepBatch) -> StepResult:
        rows, heads = self._hand_over.fill(batch)
        logits = self.table[self._step.token_ids[:rows]][self._step.heads["row"][:heads]]
        _finish_rows(self._step, self._lane, logits)
        return self._hand_over.result(batch)

    def close(self) -> None:
        pass


@njit
def _finish_rows(step, lane, logits):  # type: ignore[no-untyped-def]
    for index in range(logits.shape[0]):
        finish_row(step, lane, logits[index], index)


def _lane_memory(vocabulary: int) -> LaneMemory:
    """Memory of a lane that has no programs."""
    nothing = np.zeros((0, 0), np.float32)
    return LaneMemory(
        control=np.zeros(0, np.int64),
        programs=np.zeros((0, 0), np.int64),
        hidden=(nothing, nothing),
        qkv=nothing,
        attention=nothing,
        query=nothing,
        scores=nothing,
        head_hidden=nothing,
        logits=nothing,
        raw_logits=np.zeros(vocabulary, np.float32),
        order=np.zeros(vocabulary, np.int32),
        counts=np.zeros(vocabulary, np.int32),
        seconds=np.zeros(0, np.float64),
        clock=np.zeros(0, np.int64),
    )


def part(
    token_ids: Sequence[int],
    sampling: SamplingParams | None,
    *,
    start: int = 0,
    targets: Sequence[int] = (),
    target_alternatives: int = 0,
) -> SequenceSlice:
    """A slice that has no use for blocks."""
    return SequenceSlice(
        token_ids, start, (), sampling, targets=targets, target_alternatives=target_alternatives
    )


def after(history: Sequence[int], prompt_length: int, sampling: SamplingParams) -> SequenceSlice:
    """A slice that asks for the token after a history whose last token is the step's only one."""
    return SequenceSlice(
        history[-1:], len(history) - 1, (), sampling, history=history, prompt_length=prompt_length
    )


def one_row(logits: Sequence[float] | NDArray[np.float32], **limits: int) -> BigramRunner:
    """A runner whose logits are the same after every token."""
    row = np.array(logits, np.float32)
    return BigramRunner(np.tile(row, (len(row), 1)), **limits)
