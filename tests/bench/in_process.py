"""The engine on the CPU runner, without a server: how fast it is and where its time goes."""

import dataclasses
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import json_format
from tests.bench.workload import NEW_TOKENS

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Drain, Finished, Request, StepReport, Submit
from cadenza.server.runner.cpu.options import CpuOptions
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.cpu_program import load_cpu_program
from cadenza.v1.manifest_pb2 import ModelManifest


@dataclasses.dataclass(frozen=True)
class Shares:
    """Parts of the time of a run, as the busiest lane spent it; they add up to 1."""

    linear: float
    """Everything between two attentions, and the head."""
    attention: float
    """RoPE, KV writes, attention, and waiting for the other lane to write its keys."""
    sampling: float
    rest: float
    """Scheduling, detokenization and hand-over in Python, and a lane's waiting for the other."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of some requests at once."""

    tokens_per_second: float
    ttft: float
    """Seconds from the submission to the first token, of the first request."""
    shares: Shares


class BenchEngine:
    """An engine in its thread; its events come back by a queue."""

    def __init__(self, runner: CpuRunner, vocabulary: int) -> None:
        self.runner = runner
        self._reports: queue.SimpleQueue[StepReport] = queue.SimpleQueue()
        self._engine = Engine(
            runner,
            [b"x"] * vocabulary,
            options=EngineOptions(prefix_cache=False, speculation_tokens=0),
            clock=time.perf_counter,
            report=self._reports.put,
        )
        self._thread = threading.Thread(target=self._engine.run)
        self._thread.start()

    def run(self, prompts: Sequence[tuple[int, ...]], new_tokens: int = NEW_TOKENS) -> Run:
        """Submits all prompts at once and waits for all completions."""
        lanes_before = self.runner.lane_seconds
        begin = time.perf_counter()
        for index, prompt in enumerate(prompts):
            request = Request(str(index), prompt, new_tokens, arrival_time=time.perf_counter())
            self._engine.commands.put(Submit(request))
        finished: list[Finished] = []
        while len(finished) < len(prompts):
            finished += [event for event in self._reports.get().events if isinstance(event, Finished)]
        seconds = time.perf_counter() - begin
        spent = self.runner.lane_seconds - lanes_before
        busiest = spent[spent.sum(axis=1).argmax()]
        linear, attention, head, sampling = (busiest / seconds).tolist()
        parts = (linear + head, attention, sampling)
        timing = min((event.timing for event in finished), key=lambda timing: timing.first_token)
        return Run(
            tokens_per_second=len(prompts) * new_tokens / seconds,
            ttft=timing.first_token - timing.arrival,
            shares=Shares(*parts, rest=1 - sum(parts)),
        )

    def stop(self) -> None:
        """Ends the thread."""
        self._engine.commands.put(Drain())
        self._thread.join()


@contextmanager
def bench_engine(artifact: Path, cache_dir: Path) -> Iterator[tuple[BenchEngine, ModelManifest]]:
    """An engine on the artifact's CPU program with the server's default sizes."""
    extra = artifact / "assets.extra"
    manifest = json_format.Parse((extra / "manifest.json").read_text(encoding="utf-8"), ModelManifest())
    runner = load_cpu_program(extra / "cpu", manifest, CpuOptions(cache_dir=cache_dir))
    runner.warm_up()
    engine = BenchEngine(runner, manifest.decoder.vocabulary_size)
    try:
        yield engine, manifest
    finally:
        engine.stop()
        runner.close()
