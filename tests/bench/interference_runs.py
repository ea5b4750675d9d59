"""One run of the interference benchmark: streams alone, streams beside long prompts, streams alone again."""

import asyncio
import dataclasses
import itertools
import queue
import statistics
import threading
import time

from tests.bench.workload import prompts

from cadenza.client import AsyncClient
from cadenza.load import percentiles
from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Drain, Finished, Progress, Request, StepReport, Submit
from cadenza.server.runner.base import Runner

STREAMS = 8
STREAM_TOKENS = 500
LOAD_FROM, LOAD_UNTIL = 80, 300
"""Tokens of the first stream between which long prompts are sent."""
WARM_TOKENS = 20
LONG_TOKENS = 2000
IN_FLIGHT = 2
VOCABULARY = 49_152


@dataclasses.dataclass(slots=True)
class Interference:
    """Times in seconds on time.perf_counter."""

    arrivals: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """When each stream's tokens came."""
    long_prompts: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    """When each long prompt was sent and when its first token came."""

    def gaps(self, *, loaded: bool) -> list[float]:
        """ITL of all streams where long prompts were there all the time, or where none was at any time."""
        begin = min(sent for sent, _ in self.long_prompts)
        end = max(done for _, done in self.long_prompts)
        return [
            later - earlier
            for times in self.arrivals.values()
            for earlier, later in itertools.pairwise(times[WARM_TOKENS:])
            if (begin <= earlier and later <= end if loaded else later < begin or earlier > end)
        ]

    @property
    def quiet_median(self) -> float:
        """Of the gaps without long prompts."""
        return statistics.median(self.gaps(loaded=False))

    def quiet(self, percent: int) -> float:
        """A percentile, 50 or 99, of the gaps without long prompts."""
        return _percentile(self.gaps(loaded=False), percent)

    def loaded(self, percent: int) -> float:
        """A percentile, 50 or 99, of the gaps beside long prompts."""
        return _percentile(self.gaps(loaded=True), percent)

    @property
    def long_ttfts(self) -> list[float]:
        """Of the long prompts."""
        return [done - sent for sent, done in self.long_prompts]

    @property
    def prefill_speed(self) -> float:
        """Tokens of long prompts per second, from the first one sent to the last one's first token."""
        begin, end = self.long_prompts[0][0], max(done for _, done in self.long_prompts)
        return len(self.long_prompts) * LONG_TOKENS / (end - begin)


def _percentile(gaps: list[float], percent: int) -> float:
    found = percentiles(gaps)
    if found is None:
        raise SystemExit("no stream had two tokens while it should")
    return {50: found.p50, 99: found.p99}[percent]


def in_process(runner: Runner, budget: int) -> Interference:
    """A run on an engine of its own in a thread."""
    reports: queue.SimpleQueue[tuple[float, StepReport]] = queue.SimpleQueue()
    engine = Engine(
        runner,
        [b"x"] * VOCABULARY,
        options=EngineOptions(mixed_prefill_tokens=budget, prefix_cache=False, speculation_tokens=0),
        clock=time.perf_counter,
        report=lambda report: reports.put((time.perf_counter(), report)),
    )
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        return _drive(engine, reports)
    finally:
        engine.commands.put(Drain())
        thread.join()


def _drive(engine: Engine, reports: "queue.SimpleQueue[tuple[float, StepReport]]") -> Interference:
    found = Interference({f"stream-{index}": [] for index in range(STREAMS)})
    long_prompts = iter(enumerate(prompts(200, LONG_TOKENS, VOCABULARY)))
    open_requests = set(found.arrivals)
    for name, prompt in zip(found.arrivals, prompts(STREAMS, 64, VOCABULARY), strict=True):
        engine.commands.put(Submit(Request(name, prompt, STREAM_TOKENS, time.perf_counter())))
    while open_requests:
        now, report = reports.get()
        for event in report.events:
            if isinstance(event, Progress) and event.request_id in found.arrivals:
                found.arrivals[event.request_id] += [now] * len(event.token_ids)
            elif isinstance(event, Finished):
                open_requests.remove(event.request_id)
                if event.request_id not in found.arrivals:
                    found.long_prompts.append((event.timing.arrival, event.timing.first_token))
        if LOAD_FROM <= len(found.arrivals["stream-0"]) < LOAD_UNTIL:
            in_engine = len(open_requests - found.arrivals.keys())
            for index, prompt in itertools.islice(long_prompts, IN_FLIGHT - in_engine):
                engine.commands.put(Submit(Request(f"long-{index}", prompt, 1, time.perf_counter())))
                open_requests.add(f"long-{index}")
    return found


async def served(target: str) -> Interference:
    """The same over gRPC; long prompts are sent by IN_FLIGHT clients, one after another each."""
    found = Interference({f"stream-{index}": [] for index in range(STREAMS)})
    long_prompts = iter(prompts(200, LONG_TOKENS, VOCABULARY))
    begun, ended = asyncio.Event(), asyncio.Event()

    async def stream(name: str, prompt: tuple[int, ...]) -> None:
        times = found.arrivals[name]
        async for chunk in client.stream(
            prompt, max_tokens=STREAM_TOKENS, temperature=0.0, ignore_eos=True, cache_prompt=False
        ):
            times += [time.perf_counter()] * sum(len(choice.token_ids) for choice in chunk.choices)
            if len(times) >= LOAD_FROM:
                begun.set()
            if len(times) >= LOAD_UNTIL:
                ended.set()

    async def send_long_prompts() -> None:
        await begun.wait()
        while not ended.is_set():
            sent = time.perf_counter()
            await client.complete(
                next(long_prompts), max_tokens=1, temperature=0.0, ignore_eos=True, cache_prompt=False
            )
            found.long_prompts.append((sent, time.perf_counter()))

    async with AsyncClient(target) as client, asyncio.TaskGroup() as tasks:
        for name, prompt in zip(found.arrivals, prompts(STREAMS, 64, VOCABULARY), strict=True):
            tasks.create_task(stream(name, prompt))
        for _ in range(IN_FLIGHT):
            tasks.create_task(send_long_prompts())
    return found
