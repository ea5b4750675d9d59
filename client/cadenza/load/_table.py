"""A summary as people read it on a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cadenza.load._compare import Compared
from cadenza.load._formulas import FORMULAS
from cadenza.load._measure import Measured
from cadenza.load._rows import (
    COLUMNS,
    COMPARISON_COLUMNS,
    COMPARISON_TITLE,
    SWEEP_COLUMNS,
    SWEEP_TITLE,
    Row,
    comparison_rows,
    generator_note,
    latency_rows,
    summary_notes,
    sweep_rows,
)
from cadenza.load._summary import Summary
from cadenza.load._sweep import Sweep


def summary_table(summary: Summary) -> Group:
    """Latencies in milliseconds, a column per percentile; throughput and failures below."""
    return Group(_table("Latency", COLUMNS, latency_rows(summary)), *map(Text, summary_notes(summary)))


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Writes the table to `console`, stdout where none is given."""
    (console or Console()).print(summary_table(summary), soft_wrap=True)


def print_run(run: Measured, console: Console) -> None:
    """One run: latencies, the server's own means, what the generator took, whether it is valid."""
    console.print(_table(run.label, COLUMNS, latency_rows(run.summary)))
    for note in (*summary_notes(run.summary), generator_note(run)):
        console.print(Text(note), soft_wrap=True)
    if run.agreement:
        print_comparison(COMPARISON_TITLE, run.agreement, console)
    for reason in run.invalid:
        console.print(Text(f"INVALID: {reason}", style="bold red"), soft_wrap=True)


def print_sweep(sweep: Sweep, console: Console) -> None:
    """All rates, and the highest that met the criterion."""
    console.print(_table(SWEEP_TITLE, SWEEP_COLUMNS, sweep_rows(sweep)))
    best = "none of these" if sweep.best is None else f"{sweep.best:.3g} requests/s"
    console.print(Text(f"highest rate that meets {sweep.criterion}: {best}"), soft_wrap=True)


def print_comparison(title: str, figures: Sequence[Compared], console: Console) -> None:
    """Figures by our clock and by another."""
    console.print(_table(title, COMPARISON_COLUMNS, comparison_rows(figures)))


def print_formulas(console: Console) -> None:
    """What each figure is."""
    for name, formula in FORMULAS.items():
        console.print(Text(f"{name}: {formula}", style="dim"), soft_wrap=True)


def _table(title: str, columns: Row, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
