"""The figures as text, shared by the terminal and the HTML report."""

from collections.abc import Sequence

from cadenza.load._compare import Compared
from cadenza.load._measure import Measured
from cadenza.load._percentiles import Percentiles
from cadenza.load._summary import Summary
from cadenza.load._sweep import Sweep

Row = tuple[str, ...]
COLUMNS: Row = ("ms", "mean", "p50", "p90", "p95", "p99", "p99.9")
COMPARISON_COLUMNS: Row = ("ms", "here", "there", "difference")
COMPARISON_TITLE = "Means by two clocks: here, and there on the server"
MLPERF_TITLE = "By two clocks: here, and there in LoadGen"
SWEEP_COLUMNS: Row = (
    "rate", "done", "good", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "failed", "met",
)  # fmt: skip
SWEEP_TITLE = "By rate: requests/s offered, completed and good; latency in ms"


def latency_rows(summary: Summary) -> list[Row]:
    """A row per distribution, in the order of COLUMNS; milliseconds."""
    return [
        _row("TTFT", summary.ttft),
        _row("TPOT", summary.tpot),
        _row("ITL", summary.itl),
        _row("latency", summary.latency),
        _row("queue", summary.queue),
        _row("lag", summary.lag),
    ]


def comparison_rows(figures: Sequence[Compared]) -> list[Row]:
    """A row per figure, in the order of COMPARISON_COLUMNS."""
    return [
        (one.name, f"{1000 * one.ours:,.2f}", f"{1000 * one.theirs:,.2f}", f"{100 * one.difference:+.2f} %")
        for one in figures
    ]


def sweep_rows(sweep: Sweep) -> list[Row]:
    """A row per rate, in the order of SWEEP_COLUMNS; latencies in milliseconds."""
    return [
        (
            f"{run.rate or 0:.3g}",
            f"{run.summary.completed_per_second:.2f}",
            f"{run.summary.goodput.per_second:.2f}" if run.summary.goodput else "-",
            *_middle_and_tail(run.summary.ttft),
            *_middle_and_tail(run.summary.tpot),
            f"{sum(run.summary.errors.values()):,}",
            "invalid" if run.invalid else "yes" if sweep.criterion.met_by(run) else "no",
        )
        for run in sweep.runs
    ]


def summary_notes(summary: Summary) -> list[str]:
    """What stands below the table of latencies: throughput, goodput, failures."""
    lines = [
        f"{summary.tokens_per_second:,.1f} tokens/s and {summary.completed_per_second:,.2f} requests/s "
        f"completed, {summary.offered_per_second:,.2f} requests/s offered, in {summary.duration:.2f} s: "
        f"{summary.tokens:,} tokens, {summary.requests:,} requests"
    ]
    if good := summary.goodput:
        share = f"{100 * good.share:.1f} % of the requests"
        lines.append(f"goodput {good.per_second:,.2f} requests/s, {share} ({good.objectives})")
    if summary.cached_prompt_tokens:
        cached = 100 * summary.cached_prompt_tokens / summary.prompt_tokens
        lines.append(f"{cached:.1f} % of {summary.prompt_tokens:,} prompt tokens came from the prefix cache")
    lines += [f"{count:,} failed: {reason}" for reason, count in sorted(summary.errors.items())]
    return lines


def generator_note(run: Measured) -> str:
    """What the generator took."""
    use = run.generator
    late = f"{1000 * use.loop_lateness.p99:.1f} ms" if use.loop_lateness else "-"
    return (
        f"generator: {use.processes} process{'es' if use.processes > 1 else ''}, "
        f"{100 * use.cores:.1f} % of a core, {1000 * use.cpu_seconds_per_request:.2f} ms of it per request, "
        f"event loop late by {late} at p99"
    )


def _row(name: str, values: Percentiles | None) -> Row:
    if values is None:
        return (name, *["-"] * (len(COLUMNS) - 1))
    found = (values.mean, values.p50, values.p90, values.p95, values.p99, values.p999)
    return (name, *map(_milliseconds, found))


def _middle_and_tail(values: Percentiles | None) -> Row:
    return (_milliseconds(values.p50), _milliseconds(values.p99)) if values else ("-", "-")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"
