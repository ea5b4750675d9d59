"""Runs a load in this process, or shares it out among several that begin at the same moment."""

import asyncio
import contextlib
import dataclasses
import itertools
import multiprocessing
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final

from cadenza.load._clock import MonotonicClock
from cadenza.load._connection import LoadError, Sender, connected
from cadenza.load._counts import LiveCounts, Slots
from cadenza.load._generator import WHOLE, Generated, Part, ProcessUse, generate
from cadenza.load._loop import new_event_loop
from cadenza.load._plan import LoadPlan

_LEAD_SECONDS: Final = 0.2
"""From the moment when all processes are connected to the load's begin."""
_Begin = Callable[[], Awaitable[float]]


async def run_load(plan: LoadPlan, counts: LiveCounts | None = None) -> Generated:
    """Runs a load in as many processes as `counts` has; returns when the last stream has ended.

    Raises LoadError where the server cannot be reached or a process of the load dies.
    """
    slots = (counts or LiveCounts()).slots
    if len(slots) == 1:
        return await _run(plan, WHOLE, slots[0], _now)
    with _workers(plan, slots) as pipes:
        await asyncio.to_thread(_receive, pipes)
        begin = time.perf_counter() + _LEAD_SECONDS
        for pipe in pipes:
            pipe.send(begin)
        return _joined(await asyncio.to_thread(_receive, pipes))


async def _now() -> float:
    return time.perf_counter()


async def _run(plan: LoadPlan, part: Part, slots: Slots, begin: _Begin) -> Generated:
    """Connects, asks for the moment of the begin (on time.perf_counter), runs the part."""
    async with connected(plan.settings) as stubs:
        moment = await begin()
        clock = MonotonicClock(moment)
        generated = await generate(plan, Sender(plan.settings, stubs, clock, slots), clock, part)
        return dataclasses.replace(generated, begin=moment)


@contextlib.contextmanager
def _workers(plan: LoadPlan, slots: Sequence[Slots]) -> Iterator[list[Pipe]]:
    """Starts a process for each slots and gives the pipes to them; none lives on after the block."""
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as cleanup:
        pipes = []
        for number, own in enumerate(slots):
            ours, theirs = context.Pipe()
            cleanup.callback(ours.close)
            worker = context.Process(
                target=_work, args=(plan, Part(number, len(slots)), own, theirs), daemon=True
            )
            worker.start()
            cleanup.callback(worker.join)
            cleanup.callback(worker.terminate)
            theirs.close()
            pipes.append(ours)
        yield pipes


def _work(plan: LoadPlan, part: Part, slots: Slots, pipe: Pipe) -> None:
    """The whole life of a process: says None when it is connected, then what it generated or a LoadError."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    async def begin() -> float:
        pipe.send(None)
        moment: float = await asyncio.to_thread(pipe.recv)
        return moment

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            pipe.send(runner.run(_run(plan, part, slots, begin)))
    except LoadError as error:
        pipe.send(error)


def _receive(pipes: Sequence[Pipe]) -> list[Any]:
    """One message of each process. Raises LoadError where that is one, or the process is gone."""
    messages = []
    for pipe in pipes:
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise LoadError("a process of the load died; its error is above") from None
        if isinstance(message, LoadError):
            raise message
        messages.append(message)
    return messages


def _joined(parts: Sequence[Generated]) -> Generated:
    return Generated(
        records=sorted(
            itertools.chain.from_iterable(part.records for part in parts), key=lambda record: record.index
        ),
        use=ProcessUse(
            list(itertools.chain.from_iterable(part.use.loop_lateness for part in parts)),
            sum(part.use.cpu_seconds for part in parts),
            max(part.use.seconds for part in parts),
        ),
        begin=parts[0].begin,
    )
