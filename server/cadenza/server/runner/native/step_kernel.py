"""A whole step, as one native call on each lane: embed, all layers, head, sampling.

A step is a row of phases: the norms of all rows, their product with a matrix, and so on. A few rows are
computed by all lanes as a team: in each phase they take pieces of its work until none is left, and meet
before the next begins, so that every weight is read once. Many rows are cut into one range a lane, each a
team of one: then reading is not what takes time, and lanes do not wait for each other. No phase needs
Python's lock.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit
from numba.extending import overload
from numpy.typing import NDArray

from cadenza.server.runner.cpu.head import finish_row
from cadenza.server.runner.cpu.intrinsics import atomic_add, atomic_load, borrow, call_address
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
    StepMemory,
)
from cadenza.server.runner.native.memory import (
    HEAD_BEGIN,
    HEADS,
    LANES,
    PHASE,
    ROW_BEGIN,
    ROWS,
    SHARING,
    STOP,
    NativeLane,
    NativeModel,
    TeamMemory,
)
from cadenza.server.runner.native.phases import (
    attend,
    claim,
    embed,
    expand,
    norm,
    project,
    rotate,
    take_all,
    work_of,
)
from cadenza.server.runner.native.products import inputs_of, norm_row, norms_of, take

_MONOTONIC = 1
_SPINS = 200_000
"""How often a lane looks for the others before it pauses: some 200 us, more than any piece of work takes."""
_PAUSE_MICROSECONDS = 20
_OWN_SOURCES = ("memory", "tiles", "rows", "products", "phases", "step_kernel")

StepKernel = Callable[
    [Functions, NativeModel, StepMemory, TeamMemory, TeamMemory, NativeLane, NDArray[np.int64], int], None
]
"""run(functions, model, step, team, alone, lane, semaphores, index): the life of the lane `index`.

It waits for steps and takes part until told to stop. The first lane wakes the others, and is done when they
are. team: all lanes'; alone: this lane's, where it has rows of its own. semaphores: [lanes, 2] addresses, GO
and DONE. A step called as a function would cost more: so many arrays take Numba 0.1 ms to unpack.
"""


@njit
def _now(functions, lane):
    call_address(functions.clock_gettime, (_MONOTONIC, lane.clock.ctypes.data))
    return lane.clock[0] + 1e-9 * lane.clock[1]


@njit
def _meet(functions, team, lane):
    """Ends a phase: returns when every lane has ended it.

    A lane that spins keeps its core from the thread it waits for, where other threads run too; so it
    soon pauses, and the system moves that thread here.
    """
    lane.control[PHASE] += 1
    _wait(functions.usleep, team.claims.ctypes.data, lane.control[LANES], lane.control[PHASE])


@njit
def _wait(usleep, arrivals, lanes, phase):
    if lanes > 1:
        atomic_add(arrivals, 1)
        spins = 0
        while atomic_load(arrivals) < lanes * phase:
            spins += 1
            if spins > _SPINS:
                call_address(usleep, (_PAUSE_MICROSECONDS,))


@njit
def _finish_rows(functions, model, step, team, lane):
    """Phases: the logits of the head rows, some at a time, and with each row what is asked of it."""
    control, vocabulary = lane.control, model.embedding.shape[0]
    norms, inputs = norms_of(model, team, model.final_norm, 0), inputs_of(model, team, team.normed)
    last = control[HEAD_BEGIN] + control[HEADS]
    for first in range(control[HEAD_BEGIN], last, HEAD_ROWS):
        start = _now(functions, lane)
        count = min(HEAD_ROWS, last - first)
        work = work_of(team, lane, count)
        begin, end = claim(work)
        while begin < end:
            for i in range(begin, end):
                norm_row(norms, step.heads[first + i].row - control[ROW_BEGIN], inputs, i)
                take(inputs, i)
            begin, end = claim(work)
        _meet(functions, team, lane)
        project(model, team, lane, team.normed, model.head, 0, count, team.logits, False)
        _meet(functions, team, lane)
        middle = _now(functions, lane)
        work = work_of(team, lane, count)
        begin, end = claim(work)
        while begin < end:
            for i in range(begin, end):
                finish_row(step, lane, team.logits[i, :vocabulary], first + i)
            begin, end = claim(work)
        _meet(functions, team, lane)
        lane.seconds[HEAD] += middle - start
        lane.seconds[SAMPLING] += _now(functions, lane) - middle


def _compute(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, team, lane):
    """A lane's part of a step. The first six are compile-time constants."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(_compute, prefer_literal=True)
def _compute_kernel(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, team, lane):
    def implementation(layers, head_dim, block, group, kv_heads, bf16, functions, model, step, team, lane):
        rows = lane.control[ROWS]
        lane.control[PHASE] = 0
        if lane.control[LANES] == 1:
            team.claims[:] = 0
        embed(model, step, team, lane)
        _meet(functions, team, lane)
        for layer in range(layers):
            start = _now(functions, lane)
            norm(model, team, lane, model.attention_norm, layer)
            _meet(functions, team, lane)
            project(model, team, lane, team.normed, model.qkv, layer, rows, team.qkv, False)
            _meet(functions, team, lane)
            middle = _now(functions, lane)
            rotate(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer)
            _meet(functions, team, lane)
            _wait(functions.usleep, step.meeting.ctypes.data, lane.control[SHARING], np.int64(layer + 1))
            attend(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer)
            _meet(functions, team, lane)
            end = _now(functions, lane)
            if model.parallel:
                _expand_normed(functions, model, team, lane, layer)
                _add_attention(functions, model, team, lane, layer)
            else:
                _add_attention(functions, model, team, lane, layer)
                _expand_normed(functions, model, team, lane, layer)
            take_all(model, team, lane, team.inner)
            _meet(functions, team, lane)
            project(model, team, lane, team.inner, model.down, layer, rows, team.hidden, True)
            _meet(functions, team, lane)
            lane.seconds[ATTENTION] += end - middle
            lane.seconds[LINEAR] += _now(functions, lane) - start - (end - middle)
        _finish_rows(functions, model, step, team, lane)

    return implementation


@njit
def _add_attention(functions, model, team, lane, layer):
    take_all(model, team, lane, team.attention)
    _meet(functions, team, lane)
    rows = lane.control[ROWS]
    project(model, team, lane, team.attention, model.attention_output, layer, rows, team.hidden, True)
    _meet(functions, team, lane)


@njit
def _expand_normed(functions, model, team, lane, layer):
    norm(model, team, lane, model.mlp_norm, layer)
    _meet(functions, team, lane)
    expand(model, team, lane, layer)
    _meet(functions, team, lane)


@njit
def _wake(functions, semaphores):
    """Lets the other lanes begin."""
    for other in range(1, len(semaphores)):
        call_address(functions.sem_post, (semaphores[other, GO],))


@njit
def _next_step(functions, semaphore, lane):
    """Waits for a step; returns whether there is one, and not the end."""
    while call_address(functions.sem_wait, (semaphore,)) != 0:
        pass
    return lane.control[STOP] == 0


@njit
def _await(functions, semaphores):
    """Returns when the other lanes have ended."""
    for other in range(1, len(semaphores)):
        while call_address(functions.sem_wait, (semaphores[other, DONE],)) != 0:
            pass


_FOR_ALL_SIZES = (finish_row, embed, norm, take_all, project, expand)
"""Large functions that do not depend on a model's sizes: compiled once for all models."""


def num_phases(layers: int, heads: int) -> int:
    """The most phases of a step with so many head rows."""
    return 1 + 10 * layers + 3 * -(-heads // HEAD_ROWS)


def step_kernel(
    cache_dir: Path, layers: int, head_dim: int, block: int, group: int, kv_heads: int, bf16: int
) -> StepKernel:
    """Compiles the kernel for a model's sizes, or takes it from Numba's cache below `cache_dir`.

    Only a function whose closure holds nothing but numbers is found again by another process.
    """
    keep_kernels(cache_dir, (Path(__file__).parent / f"{name}.py" for name in _OWN_SOURCES))
    for function in _FOR_ALL_SIZES:
        function.enable_caching()

    @njit(nogil=True, cache=True)
    def run(functions, model, step, team, alone, lane, semaphores, index):
        while _next_step(functions, semaphores[index, GO], lane):
            if index == 0:
                team.claims[:] = 0
                _wake(functions, semaphores)
            _compute(
                layers, head_dim, block, group, kv_heads, bf16, functions, borrow(model), borrow(step),
                borrow(team if lane.control[LANES] > 1 else alone), borrow(lane),
            )  # fmt: skip
            if index == 0:
                _await(functions, semaphores)
            call_address(functions.sem_post, (semaphores[index, DONE],))

    return run
