"""The Server scenario of MLPerf's LoadGen as a second generator: its arrivals, its clock, its figures.

LoadGen draws Poisson arrivals, asks for each on a thread of its own, and is told of first tokens and ends.
Its latencies run from the arrivals that it scheduled, its TPOT is (latency - TTFT) / (tokens - 1) as ours,
its p-th percentile is the value at n * p of n sorted ones. Our clock notes the same answers.
"""

import asyncio
import importlib
import itertools
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cadenza.load._clock import MonotonicClock
from cadenza.load._compare import Compared
from cadenza.load._connection import Sender, connected
from cadenza.load._counts import LiveCounts
from cadenza.load._files import LoadInputError
from cadenza.load._generator import Generated, watched
from cadenza.load._plan import LoadPlan
from cadenza.load._record import RequestRecord

_SUMMARY_FILE: Final = "mlperf_log_summary.txt"
_SAMPLES: Final = 1
"""LoadGen's library of samples is not used, as it sends some twice: the workload numbers its requests."""
_SHARES: Final = (0.5, 0.9, 0.95, 0.99)
_NAMES: Final = {
    "TTFT": ("Mean First Token latency", "first token latency"),
    "TPOT": ("Mean Time per Output Token", "time to output token"),
    "latency": ("Mean latency", "latency"),
}
"""What LoadGen's summary calls the mean and the percentiles of our figures."""


async def generate_with_mlperf(
    plan: LoadPlan, rate: float, seconds: float, folder: Path, counts: LiveCounts
) -> Generated:
    """Runs LoadGen at this rate for about so long; its logs go to `folder`.

    Raises LoadInputError where LoadGen is not installed, and LoadError where no server answers.
    """
    loadgen = _loadgen()
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with connected(plan.settings) as stubs:
        clock = MonotonicClock(begin := time.perf_counter())
        sender = Sender(plan.settings, stubs, clock, counts.slots[0])
        system = _System(loadgen, plan, sender, clock)
        async with watched(clock) as use:
            await asyncio.to_thread(system.run, _settings(loadgen, rate, seconds), folder)
    return Generated(system.records, use, begin)


class _System:
    """What LoadGen calls the system under test."""

    def __init__(self, loadgen: Any, plan: LoadPlan, sender: Sender, clock: MonotonicClock) -> None:
        self._loadgen = loadgen
        self._plan = plan
        self._sender = sender
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._indices = itertools.count()
        self.records: list[RequestRecord] = []

    def run(self, settings: Any, folder: Path) -> None:
        """Blocks until LoadGen has got all answers."""
        logs = self._loadgen.LogSettings()
        logs.log_output.outdir = str(folder)
        logs.log_output.copy_summary_to_stdout = False
        system = self._loadgen.ConstructSUT(self._issue, _nothing)
        samples = self._loadgen.ConstructQSL(_SAMPLES, _SAMPLES, _nothing, _nothing)
        try:
            self._loadgen.StartTestWithLogSettings(system, samples, settings, logs)
        finally:
            self._loadgen.DestroyQSL(samples)
            self._loadgen.DestroySUT(system)

    def _issue(self, samples: Sequence[Any]) -> None:
        """Called on LoadGen's thread when requests are due."""
        due = self._clock.now()
        for sample in samples:
            self._loop.call_soon_threadsafe(self._begin, sample.id, due)

    def _begin(self, sample_id: int, due: float) -> None:
        record = RequestRecord(next(self._indices), due)
        self.records.append(record)
        task = self._loop.create_task(self._answer(sample_id, record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, sample_id: int, record: RequestRecord) -> None:
        """LoadGen waits for the end of every request, failed ones too."""
        told = self._loadgen.QuerySampleResponse(sample_id, 0, 0, 1)
        try:
            await self._sender.send(
                self._plan.workload.request(record.index),
                record,
                lambda: self._loadgen.FirstTokenComplete([told]),
            )
        finally:
            if not record.messages:
                self._loadgen.FirstTokenComplete([told])
            end = self._loadgen.QuerySampleResponse(sample_id, 0, 0, max(1, record.tokens))
            self._loadgen.QuerySamplesComplete([end])


def compare_with_mlperf(folder: Path, records: Sequence[RequestRecord]) -> tuple[Compared, ...]:
    """LoadGen's own summary beside the same figures of our records, by LoadGen's rule for percentiles."""
    text = (folder / _SUMMARY_FILE).read_text(encoding="utf-8")
    ours: dict[str, list[float | None]] = {
        "TTFT": [record.ttft for record in records],
        "TPOT": [record.tpot for record in records],
        "latency": [record.latency for record in records],
    }
    return tuple(
        figure
        for name, values in ours.items()
        for figure in _compared(name, sorted(value for value in values if value is not None), text)
    )


def _compared(name: str, ours: Sequence[float], text: str) -> list[Compared]:
    mean, percentile = _NAMES[name]
    wanted = {f"{name} mean": (mean, statistics.fmean(ours))} if ours else {}
    for share in _SHARES if ours else ():
        line = f"{100 * share:.2f} percentile {percentile}"
        wanted[f"{name} p{100 * share:g}"] = (line, ours[int(len(ours) * share)])
    return [
        Compared(figure, ours=value, theirs=int(match[1]) / 1e9)
        for figure, (line, value) in wanted.items()
        if (match := re.search(rf"^{re.escape(line)} \(ns\)\s*:\s*(\d+)", text, re.MULTILINE))
    ]


def _settings(loadgen: Any, rate: float, seconds: float) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Server
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.server_target_qps = rate
    settings.min_duration_ms = round(1000 * seconds)
    settings.min_query_count = max(1, round(rate * seconds))
    settings.use_token_latencies = True
    return settings


def _loadgen() -> Any:
    try:
        return importlib.import_module("mlperf_loadgen")
    except ImportError:
        raise LoadInputError("LoadGen is not installed: pip install 'cadenza[mlperf]'") from None


def _nothing(*_: object) -> None:
    """LoadGen has nothing to load, unload or flush here."""
