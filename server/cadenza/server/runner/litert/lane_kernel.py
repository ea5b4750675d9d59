"""One lane's part of a step, as one native call: embed, all layers, head, sampling.

A lane is a thread with its own programs and buffers. It computes a range of the step's rows from the first
layer to the chosen tokens and needs Python's lock at no point. Lanes that hold rows of the same sequence
meet once a layer, after its keys and values are written.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit
from numba.extending import overload
from numpy.typing import NDArray

from cadenza.server.runner.cpu.attention import attend, rotate_and_store
from cadenza.server.runner.cpu.head import finish_row
from cadenza.server.runner.cpu.intrinsics import atomic_add, atomic_load, call_address
from cadenza.server.runner.cpu.kernel_cache import keep_kernels
from cadenza.server.runner.cpu.memory import (
    ATTENTION,
    DONE,
    GO,
    HEAD,
    HEAD_ROWS,
    LINEAR,
    SAMPLING,
    Functions,
    ModelMemory,
    StepMemory,
)
from cadenza.server.runner.litert.lane_memory import (
    FAILED_PROGRAM,
    HEAD_BEGIN,
    HEAD_END,
    ROW_BEGIN,
    ROW_END,
    SHARING,
    STATUS,
    STOP,
    LaneMemory,
)

_HEAD, _HEAD_TAIL = -2, -1
_MONOTONIC = 1
_ABANDONED = 1 << 40
_SPINS = 20_000
"""How often a lane looks for the others before it pauses: some 20 us."""
_PAUSE_MICROSECONDS = 20
_OWN_SOURCES = ("lane_memory", "lane_kernel")

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
def _meet(functions, lane, step, layer):
    """Returns when every lane that shares sequences has written its keys and values of this layer.

    A lane that spins keeps its core from the thread it waits for, where other threads run too; so it
    soon pauses, and the system moves that thread here.
    """
    lanes = lane.control[SHARING]
    if lanes > 1:
        address = step.meeting.ctypes.data
        atomic_add(address, 1)
        spins = 0
        while atomic_load(address) < lanes * (layer + 1):
            spins += 1
            if spins > _SPINS:
                call_address(functions.usleep, (_PAUSE_MICROSECONDS,))


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
def _finish_rows(functions, step, lane, hidden):
    """Makes the logits of the lane's head rows, some at a time, and does with each what is asked."""
    control = lane.control
    for first in range(control[HEAD_BEGIN], control[HEAD_END], HEAD_ROWS):
        count = min(HEAD_ROWS, control[HEAD_END] - first)
        begin = _now(functions, lane)
        for i in range(count):
            row = step.heads[first + i].row - control[ROW_BEGIN]
            for d in range(hidden.shape[1]):
                lane.head_hidden[i, d] = hidden[row, d]
        if not _run(functions, lane, _HEAD if count == HEAD_ROWS else _HEAD_TAIL):
            return
        middle = _now(functions, lane)
        for i in range(count):
            finish_row(step, lane, lane.logits[i], first + i)
        lane.seconds[HEAD] += middle - begin
        lane.seconds[SAMPLING] += _now(functions, lane) - middle


def _compute(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, lane):
    """Computes the lane's rows and head rows. The first six are compile-time constants."""
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
            _meet(functions, lane, step, layer)
            for row in range(rows):
                attend(
                    head_dim, block, group, kv_heads, bf16, lane.query[row],
                    model.keys[layer].ctypes.data, model.values[layer].ctypes.data,
                    step.tables[step.slice_of_row[begin + row]], step.positions[begin + row] + 1,
                    lane.scores, lane.attention[row],
                )  # fmt: skip
            lane.seconds[ATTENTION] += _now(functions, lane) - middle
        _finish_rows(functions, step, lane, lane.hidden[layers % 2])

    return implementation


def lane_kernel(
    cache_dir: Path, layers: int, head_dim: int, block: int, group: int, kv_heads: int, bf16: int
) -> LaneKernel:
    """Compiles the kernel for a model's sizes, or takes it from Numba's cache below `cache_dir`.

    Only a function whose closure holds nothing but numbers is found again by another process.
    """
    keep_kernels(cache_dir, (Path(__file__).parent / f"{name}.py" for name in _OWN_SOURCES))
    finish_row.enable_caching()  # large, and the same for all models

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
