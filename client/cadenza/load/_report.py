"""A load test as it is kept: JSON with every figure, CSV with every request."""

import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cadenza.load._compare import Compared
from cadenza.load._formulas import FORMULAS
from cadenza.load._measure import Measured
from cadenza.load._sweep import Sweep

COLUMNS = (
    "run", "index", "scheduled", "lag", "ttft", "tpot", "latency", "queue",
    "prompt_tokens", "cached_tokens", "reply_tokens", "error",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was asked for, where it ran, what came of it."""

    settings: Mapping[str, str]
    environment: Mapping[str, str]
    runs: tuple[Measured, ...]
    sweep: Sweep | None = None
    mlperf: tuple[Compared, ...] = ()
    """Our figures and LoadGen's, where it was the generator."""


def environment() -> dict[str, str]:
    """The generator's machine."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cadenza": importlib.metadata.version("cadenza"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load average": load,
    }


def write_json(report: Report, path: Path) -> None:
    """Writes everything but the single requests. Raises OSError."""
    path.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")


def as_json(report: Report) -> dict[str, Any]:
    """Times are seconds."""
    document: dict[str, Any] = {
        "settings": dict(report.settings),
        "environment": dict(report.environment),
        "formulas": FORMULAS,
        "runs": [_run(run) for run in report.runs],
    }
    if report.mlperf:
        document["mlperf"] = [dataclasses.asdict(figure) for figure in report.mlperf]
    if report.sweep is not None:
        criterion = report.sweep.criterion
        document["sweep"] = {
            "criterion": str(criterion),
            "highest_rate": report.sweep.best,
            "met": {f"{run.rate:g}": criterion.met_by(run) for run in report.sweep.runs},
        }
    return document


def write_csv(runs: Iterable[Measured], path: Path) -> None:
    """Writes a line per request, all of them, those of the warm-up too. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for run in runs:
            for record in run.records:
                writer.writerow(
                    [
                        *(run.label, record.index, _cell(record.scheduled), _cell(record.lag)),
                        *map(_cell, (record.ttft, record.tpot, record.latency, record.queue)),
                        *(record.prompt_tokens, record.cached_tokens, record.tokens, record.error),
                    ]
                )


def _cell(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.6f}"


def _run(run: Measured) -> dict[str, Any]:
    document = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    del document["records"]
    document["valid"] = not run.invalid
    return {name: _plain(value) for name, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return (
        dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )
