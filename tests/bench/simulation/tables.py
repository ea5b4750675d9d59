"""Figures of replays as people read them."""

import functools
from collections.abc import Callable, Mapping

from rich.table import Table
from tests.bench.simulation.recorder import Figures


def _milliseconds(distribution: str, percentile: str, figures: Figures) -> float | None:
    values = getattr(figures, distribution)
    return None if values is None else 1000 * float(getattr(values, percentile))


_ROWS: Mapping[str, Callable[[Figures], float | None]] = {
    **{
        f"{label} {percentile}, ms": functools.partial(_milliseconds, distribution, percentile)
        for label, distribution in (("TTFT", "ttft"), ("ITL", "itl"), ("queue", "queue"))
        for percentile in ("p50", "p90", "p99")
    },
    "preemptions": lambda figures: figures.preemptions,
    "prefix hits, % of tokens": lambda figures: 100 * figures.hit_ratio,
    "steps": lambda figures: figures.steps,
    "tokens/s": lambda figures: figures.tokens_per_second,
    "seconds": lambda figures: figures.duration,
}


def figures_table(title: str, columns: Mapping[str, Figures]) -> Table:
    """One column for each replay."""
    table = Table("", title=title)
    for name in columns:
        table.add_column(name, justify="right")
    for label, value in _ROWS.items():
        table.add_row(label, *(_number(value(figures)) for figures in columns.values()))
    endings = sorted({how for figures in columns.values() for how in figures.ended})
    for how in endings:
        table.add_row(f"ended: {how}", *(str(figures.ended.get(how, 0)) for figures in columns.values()))
    return table


def comparison(real: Figures, simulated: Figures) -> Table:
    """A real run and its simulation side by side."""
    table = Table("", title="the same trace")
    for column in ("real", "simulated", "simulated / real"):
        table.add_column(column, justify="right")
    for label, value in _ROWS.items():
        seen, told = value(real), value(simulated)
        ratio = f"{told / seen:.2f}" if seen and told is not None else "-"
        table.add_row(label, _number(seen), _number(told), ratio)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:,.1f}"
