"""The report as one HTML file with its plots inside: nothing is fetched, nothing runs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from cadenza.load._figures import run_plots, sweep_plots
from cadenza.load._formulas import FORMULAS
from cadenza.load._measure import Measured
from cadenza.load._plot import Plot, svg
from cadenza.load._report import Report
from cadenza.load._rows import (
    COLUMNS,
    COMPARISON_COLUMNS,
    COMPARISON_TITLE,
    MLPERF_TITLE,
    SWEEP_COLUMNS,
    SWEEP_TITLE,
    comparison_rows,
    generator_note,
    latency_rows,
    summary_notes,
    sweep_rows,
)

_STYLE: Final = """
body { font: 15px/1.5 sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .3em .8em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.plots { display: flex; flex-wrap: wrap; gap: 8px; }
.invalid { background: #b00020; color: #fff; padding: .6em 1em; }
.valid { background: #e3f2e8; padding: .6em 1em; }
"""


def write_html(report: Report, path: Path) -> None:
    """Raises OSError."""
    path.write_text(page(report), encoding="utf-8")


def write_plots(report: Report, folder: Path) -> None:
    """Each plot as an SVG file named after it: those of the sweep where there is one. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = sweep_plots(report.sweep) if report.sweep is not None else run_plots(report.runs[0])
    for plot in plots:
        name = re.sub(r"[^a-z0-9]+", "-", plot.title.lower())
        (folder / f"{name}.svg").write_text(svg(plot) + "\n", encoding="utf-8")


def page(report: Report) -> str:
    """The whole document."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Cadenza load test</title>',
        f"<style>{_STYLE}</style></head><body><h1>Cadenza load test</h1>",
    ]
    if report.sweep is not None:
        best = "none" if report.sweep.best is None else f"{report.sweep.best:.3g} requests/s"
        parts += [
            f"<h2>Highest rate that meets {escape(str(report.sweep.criterion))}: {best}</h2>",
            f"<p>{SWEEP_TITLE}</p>",
            _table(SWEEP_COLUMNS, sweep_rows(report.sweep)),
            _plots(sweep_plots(report.sweep)),
        ]
    parts += [_run(run) for run in report.runs]
    if report.mlperf:
        parts += [f"<p>{MLPERF_TITLE}</p>", _table(COMPARISON_COLUMNS, comparison_rows(report.mlperf))]
    parts += ["<h2>Asked for</h2>", _pairs({**report.settings, **report.environment})]
    parts += ["<h2>Formulas</h2>", _pairs(FORMULAS), "</body></html>"]
    return "\n".join(parts)


def _run(run: Measured) -> str:
    verdicts = [f'<p class="invalid">Invalid: {escape(reason)}</p>' for reason in run.invalid]
    return "\n".join(
        [
            f"<h2>{escape(run.label)}</h2>",
            *(verdicts or ['<p class="valid">Valid: the generator kept up.</p>']),
            _table(COLUMNS, latency_rows(run.summary)),
            *(f"<p>{escape(note)}</p>" for note in (*summary_notes(run.summary), generator_note(run))),
            *_agreement(run),
            _plots(run_plots(run)),
        ]
    )


def _agreement(run: Measured) -> list[str]:
    if not run.agreement:
        return []
    return [f"<p>{escape(COMPARISON_TITLE)}</p>", _table(COMPARISON_COLUMNS, comparison_rows(run.agreement))]


def _plots(plots: Iterable[Plot]) -> str:
    return f'<div class="plots">{"".join(svg(plot) for plot in plots)}</div>'


def _pairs(pairs: Mapping[str, str]) -> str:
    return _table(("", ""), [(name, value) for name, value in pairs.items()], align="left")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "right") -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    style = f' style="text-align:{align}"' if align != "right" else ""
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
