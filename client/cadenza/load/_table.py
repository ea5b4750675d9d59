"""A summary as people read it: a table of latencies in milliseconds, a line of throughput."""

from rich.console import Console
from rich.table import Table

from cadenza.load._summary import Percentiles, Summary


def summary_table(summary: Summary) -> Table:
    """TTFT, ITL, TPOT and latency in milliseconds, a column per percentile; the caption has the rest."""
    table = Table(title="Latency, ms", caption=_caption(summary), caption_justify="left")
    table.add_column("")
    for column in ("mean", "p50", "p90", "p95", "p99"):
        table.add_column(column, justify="right")
    table.add_row("time to first token (TTFT)", *_cells(summary.ttft))
    table.add_row("inter-token latency (ITL)", *_cells(summary.itl))
    table.add_row("time per output token (TPOT)", *_cells(summary.tpot))
    table.add_row("end to end", *_cells(summary.latency))
    return table


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Writes the table to `console`, stdout where none is given."""
    (console or Console()).print(summary_table(summary))


def _caption(summary: Summary) -> str:
    failed = "".join(f", {count} failed: {reason}" for reason, count in sorted(summary.errors.items()))
    return (
        f"{summary.tokens_per_second:,.1f} tokens/s: "
        f"{summary.tokens:,} tokens of {summary.requests:,} requests in {summary.duration:.2f} s{failed}"
    )


def _cells(values: Percentiles | None) -> list[str]:
    if values is None:
        return ["-"] * 5
    return [
        f"{seconds * 1000:,.1f}" for seconds in (values.mean, values.p50, values.p90, values.p95, values.p99)
    ]
