"""The memory that kernels of both runners read and write: the model's, and a step's.

Sizes: L layers, B blocks, V vocabulary, d hidden size; a step has T rows, S slices and H head rows.
"""

import mmap
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cadenza.server.runner.base import MOST_ALTERNATIVES

# Columns of the semaphores: a step is there; it is computed.
GO, DONE = range(2)
# Fields of a lane's `seconds`.
LINEAR, ATTENTION, HEAD, SAMPLING = range(4)
HEAD_ROWS = 32
"""Rows that the head takes at once: its logits stay in the caches until they are sampled."""
NO_LOGPROB = -1
"""As a number of alternatives: not even the token's own log-probability is wanted."""

HEAD_ROW = np.dtype(
    [
        ("row", np.int32),
        ("target", np.int32),
        ("alternatives", np.int32),
        ("temperature", np.float32),
        ("top_k", np.int32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("choice", np.int32),
        ("seed", np.uint64),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("history_begin", np.int32),
        ("completion_begin", np.int32),
        ("history_end", np.int32),
        ("bias_begin", np.int32),
        ("bias_end", np.int32),
    ],
    align=True,
)
"""A row of the step whose logits are wanted, and what for.

target is the token whose log-probability is wanted, or NO_TOKEN where one is to be chosen by the fields from
temperature on. alternatives come with the log-probability; NO_LOGPROB where there is none. The ranges are of
StepMemory.history, where the completion follows the prompt, and of StepMemory.bias_ids and bias_values.
"""


class Functions(NamedTuple):
    """Addresses of C functions: LiteRT's run, and POSIX semaphores, clock and sleep."""

    run: int
    sem_post: int
    sem_wait: int
    clock_gettime: int
    usleep: int


class ModelMemory(NamedTuple):
    """What all lanes share of the model."""

    embedding: NDArray[np.float32]
    """[V, d]"""
    positions: NDArray[np.float32]
    """[max_context, d], added to the embedding; [0, d] where positions are not learned."""
    cosines: NDArray[np.float32]
    """[max_context, rotated / 2]"""
    sines: NDArray[np.float32]
    keys: NDArray[Any]
    """[L, B, kv_heads, head_dim, block], float32 or bf16 as uint16."""
    values: NDArray[Any]
    """[L, B, kv_heads, block, head_dim]"""
    scale: np.float32
    """Factor on q.k."""


class StepMemory(NamedTuple):
    """The step's batch and its results, shared by all lanes."""

    token_ids: NDArray[np.int32]
    """[T]"""
    positions: NDArray[np.int32]
    """[T]"""
    slice_of_row: NDArray[np.int32]
    """[T]"""
    place_in_slice: NDArray[np.int32]
    """[T] 0 for a slice's first row."""
    tables: NDArray[np.int32]
    """[S, blocks of the longest sequence]"""
    heads: NDArray[np.void]
    """[H] of HEAD_ROW, ascending by row."""
    history: NDArray[np.int32]
    """Tokens of prompt and completion of the sequences that have penalties, one after the other."""
    bias_ids: NDArray[np.int32]
    """The tokens of all biases, one request's after the other's."""
    bias_values: NDArray[np.float32]
    chosen: NDArray[np.int64]
    """[H] Out: the tokens, or the targets; NOT_FINITE where the logits forbid an answer."""
    logprobs: NDArray[np.float64]
    """[H] Out: their log-probabilities, where they were wanted."""
    alternative_ids: NDArray[np.int32]
    """[H, MOST_ALTERNATIVES] Out: as many as were wanted; NO_TOKEN behind the last where there are fewer."""
    alternative_logprobs: NDArray[np.float64]
    """[H, MOST_ALTERNATIVES]"""
    meeting: NDArray[np.int64]
    """[1]: arrivals of lanes at this step's meetings."""


def step_memory(rows: int, slices: int, *, context: int, blocks: int, vocabulary: int) -> StepMemory:
    """Room for the largest step; `context` positions and `blocks` are those of the longest sequence.

    History and biases have room for the worst case. It is address space: pages become memory as they are
    touched, and then stay.
    """
    heads = rows + slices
    return StepMemory(
        token_ids=np.zeros(rows, np.int32),
        positions=np.zeros(rows, np.int32),
        slice_of_row=np.zeros(rows, np.int32),
        place_in_slice=np.zeros(rows, np.int32),
        tables=np.zeros((slices, blocks), np.int32),
        heads=np.zeros(heads, HEAD_ROW),
        history=aligned((slices * context,), np.int32),
        bias_ids=aligned((slices * vocabulary,), np.int32),
        bias_values=aligned((slices * vocabulary,), np.float32),
        chosen=np.zeros(heads, np.int64),
        logprobs=np.zeros(heads, np.float64),
        alternative_ids=np.zeros((heads, MOST_ALTERNATIVES), np.int32),
        alternative_logprobs=np.zeros((heads, MOST_ALTERNATIVES), np.float64),
        meeting=np.zeros(1, np.int64),
    )


def aligned(
    shape: tuple[int, ...], dtype: type[np.generic] = np.float32, *, huge: bool = False
) -> NDArray[Any]:
    """Zeros in pages of their own, so at an address that LiteRT accepts; in `huge` ones if they can be had.

    Pages are taken from the system as they are touched and go back with the array. Of malloc neither is
    sure: it clears memory that it gives out again, and keeps what is not large.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)[:size].view(dtype).reshape(shape)
