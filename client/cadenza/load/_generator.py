"""The load itself: one asyncio loop and one connection carry all streams of a process."""

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Iterator, MutableSequence
from typing import Final, NoReturn

from cadenza.load._clock import Clock
from cadenza.load._connection import Sender
from cadenza.load._plan import ClosedLoop, LoadPlan, OpenLoop
from cadenza.load._record import RequestRecord

NOT_SENT: Final = "NOT_SENT"
"""The error of a request that had no place among `max_in_flight`."""
_WATCH_SECONDS: Final = 0.05


@dataclasses.dataclass(slots=True)
class ProcessUse:
    """How a process fared while it generated."""

    loop_lateness: list[float] = dataclasses.field(default_factory=list)
    """Seconds by which the event loop was late, every 50 ms: an answer may be noted that much late."""
    cpu_seconds: float = 0.0
    """Of one core."""
    seconds: float = 0.0
    """For how long it generated."""


@dataclasses.dataclass(frozen=True, slots=True)
class Generated:
    """What one process has sent and seen."""

    records: list[RequestRecord]
    use: ProcessUse
    begin: float = 0.0
    """When the load's clock was 0, on time.perf_counter."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Which share of a load a process takes: every request whose index is `number` modulo `of`."""

    number: int = 0
    of: int = 1

    def indices(self) -> Iterator[int]:
        """Endless."""
        return itertools.count(self.number, self.of)

    def share(self, whole: int) -> int:
        """This part of a number, so that all parts add up to it."""
        return len(range(self.number, whole, self.of))


WHOLE: Final = Part()


async def generate(plan: LoadPlan, sender: Sender, clock: Clock, part: Part = WHOLE) -> Generated:
    """Runs this part of the load; returns when its last stream has ended. Records are in order of index."""
    async with watched(clock) as use:
        if isinstance(plan.pace, OpenLoop):
            records = await _open_loop(plan, plan.pace, sender, clock, part)
        else:
            records = await _closed_loop(plan, plan.pace, sender, clock, part)
    return Generated(sorted(records, key=lambda record: record.index), use)


@contextlib.asynccontextmanager
async def watched(clock: Clock) -> AsyncIterator[ProcessUse]:
    """What the process uses, and how late its loop is, while the context lasts; known when it ends."""
    use = ProcessUse()
    watch = asyncio.create_task(_watch(clock, use.loop_lateness))
    begun, used = clock.now(), time.process_time()
    try:
        yield use
    finally:
        watch.cancel()
        use.cpu_seconds, use.seconds = time.process_time() - used, clock.now() - begun


async def _open_loop(
    plan: LoadPlan, pace: OpenLoop, sender: Sender, clock: Clock, part: Part
) -> list[RequestRecord]:
    records: list[RequestRecord] = []
    room = asyncio.Semaphore(max(1, part.share(plan.max_in_flight)))
    due = itertools.islice(enumerate(pace.arrivals.times()), part.number, None, part.of)
    async with asyncio.TaskGroup() as tasks:
        for index, at in due:
            request = plan.workload.request(index)
            await clock.sleep_until(at)
            record = RequestRecord(index, at)
            records.append(record)
            if room.locked():
                record.sent = record.end = clock.now()
                record.error = NOT_SENT
                continue
            await room.acquire()
            tasks.create_task(sender.send(request, record)).add_done_callback(lambda _: room.release())
    return records


async def _closed_loop(
    plan: LoadPlan, pace: ClosedLoop, sender: Sender, clock: Clock, part: Part
) -> list[RequestRecord]:
    records: list[RequestRecord] = []
    indices = iter(range(part.number, pace.requests, part.of))

    async def one_after_another() -> None:
        for index in indices:
            request = plan.workload.request(index)
            if pace.seconds is not None and clock.now() >= pace.seconds:
                return
            record = RequestRecord(index, clock.now())
            records.append(record)
            await sender.send(request, record)

    await clock.sleep_until(0.0)
    async with asyncio.TaskGroup() as streams:
        for _ in range(part.share(pace.concurrency)):
            streams.create_task(one_after_another())
    return records


async def _watch(clock: Clock, lateness: MutableSequence[float]) -> NoReturn:
    """Notes how late the loop wakes, until it is cancelled."""
    while True:
        due = clock.now() + _WATCH_SECONDS
        await clock.sleep_until(due)
        lateness.append(clock.now() - due)
