"""One load from its plan to its figures, and whether they may be believed."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Protocol

from cadenza.load._compare import Compared, compare_means
from cadenza.load._counts import LiveCounts
from cadenza.load._generator import NOT_SENT, Generated
from cadenza.load._objectives import Objectives
from cadenza.load._percentiles import Percentiles, percentiles
from cadenza.load._plan import MAX_LAG
from cadenza.load._record import RequestRecord
from cadenza.load._server_metrics import MetricsPoll, ServerView
from cadenza.load._summary import Summary, Window, summarise

LAG_PERCENTILE: Final = 99.0
MAX_PROCESSES: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class GeneratorUse:
    """What the generator took itself, and how late it was."""

    processes: int
    cpu_seconds: float
    """Of all processes, while the load ran; sending, reading and noting, reading /metrics, the display."""
    cpu_seconds_per_request: float
    cores: float
    """cpu_seconds / the load's length."""
    loop_lateness: Percentiles | None
    """How late its event loops woke, seconds: by so much an answer may have been noted too late."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One load and what came of it."""

    label: str
    rate: float | None
    """Requests a second that were asked for; None where the load is not one of a constant rate."""
    summary: Summary
    invalid: tuple[str, ...]
    """Why the figures say little about the server; empty for a valid run."""
    generator: GeneratorUse
    server: ServerView | None
    """None where /metrics was not read."""
    agreement: tuple[Compared, ...]
    """Means by our clock and by the server's; empty where /metrics was not read."""
    records: tuple[RequestRecord, ...]
    """All of them, those outside the window too."""
    window: Window | None
    """None where all of the load was measured."""

    def good(self) -> list[RequestRecord]:
        """The requests that the distributions are of."""
        return [
            record
            for record in self.records
            if not record.error and (self.window is None or self.window.holds(record.scheduled))
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class Measuring:
    """How loads are measured."""

    processes: int = 1
    objectives: Objectives | None = None
    max_lag: float = MAX_LAG
    """Seconds; a run whose lag or loop lateness is above it at LAG_PERCENTILE is invalid."""
    metrics_url: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= MAX_PROCESSES:
            raise ValueError(f"processes is {self.processes}; give 1 to {MAX_PROCESSES}")


class Display(Protocol):
    """Shows a load while it runs."""

    def showing(
        self, label: str, seconds: float | None, counts: LiveCounts
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Shows it for as long as the context lasts."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """One load that is to be measured."""

    label: str
    rate: float | None
    """Requests a second, where it is one constant rate."""
    window: Window | None
    """What is measured; None for all of it."""
    run: Callable[[LiveCounts], Awaitable[Generated]]
    """Runs it to its end."""


async def measure(load: Load, how: Measuring, display: Display) -> Measured:
    """Runs a load. Raises LoadError, MetricsError; ValueError where nothing was due in the window."""
    counts = LiveCounts(how.processes)
    poll = MetricsPoll(how.metrics_url) if how.metrics_url else None
    seconds = load.window.end if load.window else None
    async with display.showing(load.label, seconds, counts), _polling(poll):
        generated = await load.run(counts)
    summary = summarise(generated.records, load.window, how.objectives)
    server = poll.view(generated.begin) if poll else None
    return Measured(
        label=load.label,
        rate=load.rate,
        summary=summary,
        invalid=reasons_against(summary, generated.use.loop_lateness, how.max_lag),
        generator=_use(generated, how.processes),
        server=server,
        agreement=compare_means(generated.records, server.means) if server else (),
        records=tuple(generated.records),
        window=load.window,
    )


def reasons_against(summary: Summary, loop_lateness: Sequence[float], max_lag: float) -> tuple[str, ...]:
    """Why a run is invalid: the generator, not the server, decided its figures."""
    reasons = []
    for what, values in (
        ("requests were sent", summary.lag),
        ("answers were noted", percentiles(loop_lateness)),
    ):
        if values is not None and values.at(LAG_PERCENTILE) > max_lag:
            reasons.append(
                f"{what} late: {1000 * values.at(LAG_PERCENTILE):.1f} ms at p{LAG_PERCENTILE:g}, at most "
                f"{1000 * max_lag:g} ms is allowed; use more processes or another machine"
            )
    if unsent := summary.errors.get(NOT_SENT):
        reasons.append(f"{unsent:,} requests were not sent: too many were in flight")
    return tuple(reasons)


def _use(generated: Generated, processes: int) -> GeneratorUse:
    return GeneratorUse(
        processes=processes,
        cpu_seconds=generated.use.cpu_seconds,
        cpu_seconds_per_request=generated.use.cpu_seconds / len(generated.records),
        cores=generated.use.cpu_seconds / generated.use.seconds,
        loop_lateness=percentiles(generated.use.loop_lateness),
    )


@contextlib.asynccontextmanager
async def _polling(poll: MetricsPoll | None) -> AsyncIterator[None]:
    if poll is None:
        yield
        return
    await poll.start()
    try:
        yield
    finally:
        await poll.stop()
