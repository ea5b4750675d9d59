"""`python -m tests.bench.metrics`: what the metrics cost, as a share of the engine's steps.

The int8 model in the server's dispatcher, without sockets; its loop and its engine share the machine as in a
server. Collectors: the processor's seconds inside ModelMetrics, those of ended requests included. Fan-out:
those inside Dispatcher.deliver, that is the collectors and what responses need anyway. Shares are these over
the seconds of the steps, sums over sums: where a machine does other work too, steps take longer, and shares
are too small.
"""

import argparse
import asyncio
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from deploy.demo.models import ARTIFACTS, CACHE
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from rich.table import Table
from tests.bench.machine import processor
from tests.bench.sampling import load
from tests.bench.workload import CONCURRENCY, NEW_TOKENS, PROMPT_TOKENS, SEED, prompts

from cadenza.server.admission import Arrival, QueueLimits
from cadenza.server.dispatch import Dispatcher
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Request
from cadenza.server.metrics import Metrics, ModelMetrics

VOCABULARY = 49152
LIMIT = 0.01
"""What the collectors may cost, as a share of the steps."""


class Stopwatch:
    """Adds up the processor's time that functions of one thread take, and counts their calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            begin = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - begin
                self.calls += 1

        return watched

    def attach(self, owner: object, *methods: str) -> None:
        """Watches methods of one object from now on."""
        for name in methods:
            setattr(owner, name, self.around(getattr(owner, name)))

    def reset(self) -> None:
        """Begins anew."""
        self.seconds, self.calls = 0.0, 0


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run; seconds are sums over its steps."""

    steps: int
    step_seconds: float
    collector_seconds: float
    fan_out_seconds: float

    @property
    def share(self) -> float:
        """collector_seconds / step_seconds."""
        return self.collector_seconds / self.step_seconds


class Bench:
    """A dispatcher whose metrics are watched."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        metrics = ModelMetrics(Metrics(self._registry, server_version="bench"), "m")
        self._collectors, self._fan_out = Stopwatch(), Stopwatch()
        self._collectors.attach(metrics, "step", "waiting", "choice_finished", "finished")
        self._dispatcher = Dispatcher(
            [load(ARTIFACTS["int8"], CACHE / "server")],
            [b"x"] * VOCABULARY,
            name="m",
            limits=QueueLimits(requests=256, prompt_tokens=1 << 20, bytes=1 << 26),
            options=EngineOptions(prefix_cache=False),
            metrics=metrics,
            clock=time.perf_counter,
            on_failure=lambda: None,
        )
        self._fan_out.attach(self._dispatcher, "deliver")

    async def run(self, batch: Sequence[tuple[int, ...]]) -> Cost:
        """Completes all prompts at once."""
        self._collectors.reset()
        self._fan_out.reset()
        before = self._step_seconds()
        await asyncio.gather(*(self._complete(str(index), prompt) for index, prompt in enumerate(batch)))
        return Cost(
            steps=self._fan_out.calls,
            step_seconds=self._step_seconds() - before,
            collector_seconds=self._collectors.seconds,
            fan_out_seconds=self._fan_out.seconds,
        )

    def scrape_seconds(self) -> float:
        """What writing the page for Prometheus takes: the median of some."""
        watch = Stopwatch()
        times = []
        for _ in range(21):
            watch.reset()
            watch.around(generate_latest)(self._registry)
            times.append(watch.seconds)
        return statistics.median(times)

    def start(self) -> None:
        """Starts the engine; the running loop gets its reports."""
        self._dispatcher.start()

    async def stop(self) -> None:
        """Ends the engine."""
        await self._dispatcher.drain(10)

    async def _complete(self, name: str, prompt: tuple[int, ...]) -> None:
        arrival = Arrival(name, time.perf_counter(), math.inf, size=len(prompt))
        with self._dispatcher.enter(arrival) as place:
            request = Request(name, prompt, NEW_TOKENS, arrival.time)
            stream = self._dispatcher.submit(request, place)
        with stream:
            while (await stream.next_part()).finished is None:
                pass

    def _step_seconds(self) -> float:
        """As the metrics themselves say, all kinds together."""
        samples = [sample for family in self._registry.collect() for sample in family.samples]
        return sum(one.value for one in samples if one.name == "cadenza_engine_step_seconds_sum")


async def measure(rounds: int) -> tuple[dict[int, list[Cost]], float]:
    """By concurrency, the first round, which warms up, left out; and the seconds of a scrape."""
    bench = Bench()
    bench.start()
    found: dict[int, list[Cost]] = {count: [] for count in CONCURRENCY}
    for number in range(rounds + 1):
        for count in CONCURRENCY:
            cost = await bench.run(prompts(count, PROMPT_TOKENS, VOCABULARY))
            if number:
                found[count].append(cost)
    await bench.stop()
    return found, bench.scrape_seconds()


def table(found: dict[int, list[Cost]]) -> Table:
    """One row for each concurrency: sums over its rounds."""
    rows = Table(
        title=f"{PROMPT_TOKENS} prompt + {NEW_TOKENS} new tokens, greedy, seed {SEED}; {processor()}"
    )
    for column in ("concurrent", "steps", "step, ms", "collectors, us a step", "share", "fan-out, share"):
        rows.add_column(column, justify="right")
    for count, costs in found.items():
        total = Cost(*map(sum, zip(*map(dataclasses.astuple, costs), strict=True)))
        rows.add_row(
            str(count),
            str(total.steps),
            f"{1e3 * total.step_seconds / total.steps:.2f}",
            f"{1e6 * total.collector_seconds / total.steps:.1f}",
            f"{100 * total.share:.2f} %",
            f"{100 * total.fan_out_seconds / total.step_seconds:.2f} %",
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where the collectors cost more than their limit."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.metrics", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    found, scrape = asyncio.run(measure(options.rounds))
    console = Console()
    console.print(table(found))
    worst = max(cost.share for costs in found.values() for cost in costs)
    console.print(f"writing the page of one model: {1e3 * scrape:.1f} ms a scrape")
    console.print(f"worst round: {100 * worst:.2f} % of its steps; limit {100 * LIMIT:.0f} %")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
