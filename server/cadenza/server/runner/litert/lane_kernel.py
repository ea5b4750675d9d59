"""One lane's part of a step, as one native call: embed, all layers, head, sampling.

A lane is a thread with its own programs and buffers. It computes a range of the step's rows from the first
layer to the chosen tokens and needs Python's lock at no point. Lanes that hold rows of the same sequence
meet once a layer, after its keys and values are written.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit
from numba.extending import overload
from numpy.typing import NDArray

from cadenza.server.runner.litert.attention import attend, rotate_and_store
from cadenza.server.runner.litert.native import atomic_add, atomic_load, call_address
from cadenza.server.runner.litert.sampling import sample

# Fields of LaneMemory.control.
STOP, ROW_BEGIN, ROW_END, SAMPLE_BEGIN, SAMPLE_END, SHARING, FAILED_PROGRAM, STATUS = range(8)
# Columns of the semaphores: a step is there; it is computed.
GO, DONE = range(2)
# Fields of LaneMemory.seconds.
LINEAR, ATTENTION, HEAD, SAMPLING = range(4)
HEAD_ROWS = 32
"""Rows that the head takes at once: its logits stay in the caches until they are sampled."""
_HEAD, _HEAD_TAIL = -2, -1
_MONOTONIC = 1
_ABANDONED = 1 << 40


class Functions(NamedTuple):
    """Addresses of C functions: LiteRT's run, and POSIX semaphores and clock."""

    run: int
    sem_post: int
    sem_wait: int
    clock_gettime: int


class ModelMemory(NamedTuple):
    """What all lanes share of the model. L layers, B blocks, V vocabulary, d hidden size."""

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
    """The step's batch, shared by all lanes: T rows, S slices."""

    token_ids: NDArray[np.int32]
    """[T]"""
    positions: NDArray[np.int32]
    """[T]"""
    slice_of_row: NDArray[np.int32]
    """[T]"""
    tables: NDArray[np.int32]
    """[S, blocks of the longest sequence]"""
    sample_rows: NDArray[np.int32]
    """Rows whose next token is chosen, ascending."""
    temperature: NDArray[np.float32]
    top_k: NDArray[np.int32]
    top_p: NDArray[np.float32]
    min_p: NDArray[np.float32]
    seed: NDArray[np.uint64]
    chosen: NDArray[np.int64]
    """Out: the tokens, in the order of sample_rows."""
    meeting: NDArray[np.int64]
    """[1]: arrivals of lanes at this step's meetings."""


class LaneMemory(NamedTuple):
    """A lane's own buffers."""

    control: NDArray[np.int64]
    programs: NDArray[np.int64]
    """[L + 3, 6]: arguments of `run` for each segment, the head, and the head for the last rows."""
    hidden: tuple[NDArray[np.float32], NDArray[np.float32]]
    """[rows, d], read and written in turn."""
    qkv: NDArray[np.float32]
    attention: NDArray[np.float32]
    """[rows, heads, head_dim]"""
    query: NDArray[np.float32]
    """[rows, heads, head_dim]"""
    scores: NDArray[np.float32]
    """[blocks, group, block]"""
    head_hidden: NDArray[np.float32]
    """[HEAD_ROWS, d]"""
    logits: NDArray[np.float32]
    """[HEAD_ROWS, V]"""
    order: NDArray[np.int32]
    """[V]"""
    seconds: NDArray[np.float64]
    """[4] Time in linear layers, attention, head and sampling, since the lane began."""
    clock: NDArray[np.int64]
    """[2] struct timespec."""


LaneKernel = Callable[[Functions, ModelMemory, StepMemory, LaneMemory, NDArray[np.int64], int, int], None]
"""run(functions, model, step, lane, semaphores, index, used), where `index` is the lane's.

For the first lane it computes one step on the first `used` lanes. For another it is the lane's whole life: it
waits for steps and computes its part until told to stop. semaphores: [lanes, 2] addresses, GO and DONE.
"""


@njit
def _now(functions, lane):
    call_address(functions.clock_gettime, (_MONOTONIC, lane.clock.ctypes.data))
    return lane.clock[0] + 1e-9 * lane.clock[1]


@njit
def _run(functions, lane, index):
    """Runs a program; notes its failure and tells the other lanes not to wait. Returns success."""
    call = lane.programs[index]
    status = call_address(functions.run, (call[0], call[1], call[2], call[3], call[4], call[5]))
    if status != 0:
        lane.control[FAILED_PROGRAM] = index
        lane.control[STATUS] = status
    return status == 0


@njit
def _meet(lane, step, layer):
    """Returns when every lane that shares sequences has written its keys and values of this layer."""
    lanes = lane.control[SHARING]
    if lanes > 1:
        address = step.meeting.ctypes.data
        atomic_add(address, 1)
        while atomic_load(address) < lanes * (layer + 1):
            pass


@njit
def _embed(model, step, lane):
    begin = lane.control[ROW_BEGIN]
    for row in range(lane.control[ROW_END] - begin):
        token_id = step.token_ids[begin + row]
        for d in range(model.embedding.shape[1]):
            lane.hidden[0][row, d] = model.embedding[token_id, d]
        if model.positions.shape[0] > 0:
            position = step.positions[begin + row]
            for d in range(model.embedding.shape[1]):
                lane.hidden[0][row, d] += model.positions[position, d]


@njit
def _head_and_sample(functions, step, lane, hidden):
    control = lane.control
    for first in range(control[SAMPLE_BEGIN], control[SAMPLE_END], HEAD_ROWS):
        count = min(HEAD_ROWS, control[SAMPLE_END] - first)
        begin = _now(functions, lane)
        for i in range(count):
            row = step.sample_rows[first + i] - control[ROW_BEGIN]
            for d in range(hidden.shape[1]):
                lane.head_hidden[i, d] = hidden[row, d]
        if not _run(functions, lane, _HEAD if count == HEAD_ROWS else _HEAD_TAIL):
            return
        middle = _now(functions, lane)
        for i in range(count):
            s = first + i
            step.chosen[s] = sample(
                lane.logits[i], step.temperature[s], step.top_k[s], step.top_p[s], step.min_p[s],
                step.seed[s], step.positions[step.sample_rows[s]] + 1, lane.order,
            )  # fmt: skip
        lane.seconds[HEAD] += middle - begin
        lane.seconds[SAMPLING] += _now(functions, lane) - middle


def _compute(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, lane):
    """Computes the lane's rows and samples. The first six are compile-time constants."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(_compute, prefer_literal=True, jit_options={"error_model": "numpy"})
def _compute_kernel(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, lane):
    def implementation(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, lane):
        control = lane.control
        begin, rows = control[ROW_BEGIN], control[ROW_END] - control[ROW_BEGIN]
        _embed(model, step, lane)
        for layer in range(layers + 1):
            start = _now(functions, lane)
            if not _run(functions, lane, layer):
                atomic_add(step.meeting.ctypes.data, _ABANDONED)
                return
            middle = _now(functions, lane)
            lane.seconds[LINEAR] += middle - start
            if layer == layers:
                break
            for row in range(rows):
                position = step.positions[begin + row]
                table = step.tables[step.slice_of_row[begin + row]]
                rotate_and_store(
                    head_dim, block, group, kv_heads, bf16, lane.qkv[row], model.cosines[position],
                    model.sines[position], model.scale, model.keys[layer], model.values[layer],
                    table[position // block], position % block, lane.query[row],
                )  # fmt: skip
            _meet(lane, step, layer)
            for row in range(rows):
                attend(
                    head_dim, block, group, kv_heads, bf16, lane.query[row],
                    model.keys[layer].ctypes.data, model.values[layer].ctypes.data,
                    step.tables[step.slice_of_row[begin + row]], step.positions[begin + row] + 1,
                    lane.scores, lane.attention[row],
                )  # fmt: skip
            lane.seconds[ATTENTION] += _now(functions, lane) - middle
        _head_and_sample(functions, step, lane, lane.hidden[layers % 2])

    return implementation


def lane_kernel(
    cache_dir: Path, layers: int, head_dim: int, block: int, group: int, kv_heads: int, bf16: int
) -> LaneKernel:
    """Compiles the kernel for a model's sizes, or takes it from Numba's cache below `cache_dir`.

    Numba's cache sees changes of this file only, so the folder is named after all kernel sources; and only a
    function whose closure holds nothing but numbers is found again by another process.
    """
    numba.config.CACHE_DIR = str(cache_dir / "numba" / _sources_digest())

    @njit(nogil=True, cache=True)
    def run(functions, model, step, lane, semaphores, index, used):
        if index == 0:
            for other in range(1, used):
                call_address(functions.sem_post, (semaphores[other, GO],))
            _compute(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, lane)
            for other in range(1, used):
                while call_address(functions.sem_wait, (semaphores[other, DONE],)) != 0:
                    pass
            return
        while True:
            while call_address(functions.sem_wait, (semaphores[index, GO],)) != 0:
                pass
            if lane.control[STOP] != 0:
                return
            _compute(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, lane)
            call_address(functions.sem_post, (semaphores[index, DONE],))

    return run


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for name in ("native", "mathematics", "attention", "sampling", "lane_kernel"):
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
