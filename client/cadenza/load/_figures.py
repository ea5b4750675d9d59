"""Which plots a load gets: latency CDFs, latency against rate, the timeline of batch and queue."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from cadenza.load._measure import Measured
from cadenza.load._objectives import Objectives
from cadenza.load._percentiles import Percentiles, quantile
from cadenza.load._plot import Limit, Line, Plot
from cadenza.load._record import RequestRecord
from cadenza.load._summary import Summary, inter_token_latencies
from cadenza.load._sweep import Sweep

_SHARES = [index / 200 for index in range(200)] + [0.996, 0.998, 0.999, 1.0]


def run_plots(run: Measured) -> list[Plot]:
    """All plots of one run."""
    good = run.good()
    objectives = run.summary.goodput.objectives if run.summary.goodput else Objectives()
    return [
        _cdf("Time to first token", [r.ttft for r in good if r.ttft is not None], objectives.ttft),
        _cdf("Time per output token", [r.tpot for r in good if r.tpot is not None], objectives.tpot),
        _cdf("Inter-token latency", [gap for r in good for gap in inter_token_latencies(r)], None, log=True),
        _cdf("End to end", [r.latency for r in good], objectives.latency),
        *_server_timeline(run),
        _in_flight(run.records),
    ]


def sweep_plots(sweep: Sweep) -> list[Plot]:
    """Latency and throughput against rate."""
    objectives = sweep.criterion.objectives
    return [
        _against_rate(sweep, "Time to first token", lambda summary: summary.ttft, objectives.ttft),
        _against_rate(sweep, "Time per output token", lambda summary: summary.tpot, objectives.tpot),
        Plot(
            "Throughput",
            "requests/s offered",
            "requests/s",
            [
                Line(
                    "completed",
                    [(r.rate or 0.0, r.summary.completed_per_second) for r in sweep.runs],
                    marked=True,
                ),
                Line(
                    "goodput",
                    [(r.rate or 0.0, r.summary.goodput.per_second) for r in sweep.runs if r.summary.goodput],
                    marked=True,
                ),
            ],
        ),
    ]


def _cdf(title: str, values: Iterable[float], objective: float | None, *, log: bool = False) -> Plot:
    ordered = sorted(values)
    points = [(1000 * quantile(ordered, share), 100 * share) for share in _SHARES] if ordered else []
    limits = [] if objective is None else [Limit("objective", 1000 * objective, vertical=True)]
    return Plot(
        f"{title}: cumulative share",
        "ms",
        "% of values",
        [Line("measured", points)],
        limits,
        log_x=log,
        y_max=100,
    )


def _against_rate(
    sweep: Sweep, title: str, figure: Callable[[Summary], Percentiles | None], objective: float | None
) -> Plot:
    found = [(run.rate or 0.0, figure(run.summary)) for run in sweep.runs]
    lines = [
        Line(f"p{percentile:g}", [(rate, 1000 * v.at(percentile)) for rate, v in found if v], marked=True)
        for percentile in (50.0, 95.0, 99.0)
    ]
    limits = [] if objective is None else [Limit(f"objective {1000 * objective:g} ms", 1000 * objective)]
    return Plot(f"{title} against rate", "requests/s offered", "ms", lines, limits, log_y=True)


def _server_timeline(run: Measured) -> Sequence[Plot]:
    if run.server is None or not run.server.samples:
        return []
    samples = run.server.samples
    return [
        Plot(
            "Server: batch and queue, from /metrics",
            "seconds",
            "requests",
            [
                Line("running", [(sample.at, sample.running) for sample in samples]),
                Line("waiting", [(sample.at, sample.waiting) for sample in samples]),
                Line("sequences in a step", [(sample.at, sample.batch_sequences) for sample in samples]),
            ],
        )
    ]


def _in_flight(records: Sequence[RequestRecord]) -> Plot:
    """Requests scheduled and not ended, as the generator saw it."""
    changes = sorted([(r.scheduled, 1) for r in records] + [(r.end, -1) for r in records])
    levels = accumulate(change for _, change in changes)
    points = [(at, float(level)) for (at, _), level in zip(changes, levels, strict=True)]
    every = max(1, len(points) // 500)
    return Plot("Client: requests in flight", "seconds", "requests", [Line("in flight", points[::every])])
