"""`cadenza load` from its parsed flags to its exit code."""

import argparse
import asyncio
import os
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from cadenza.client import AsyncClient, CadenzaError, InvalidOption
from cadenza.client._settings import Settings
from cadenza.load import _values
from cadenza.load._connection import LoadError
from cadenza.load._display import TerminalDisplay
from cadenza.load._files import LoadInputError
from cadenza.load._html import write_html, write_plots
from cadenza.load._measure import Measured, Measuring, measure
from cadenza.load._mlperf import compare_with_mlperf
from cadenza.load._objectives import Objectives
from cadenza.load._report import Report, environment, write_csv, write_json
from cadenza.load._rows import MLPERF_TITLE
from cadenza.load._server_metrics import MetricsError, metrics_url, read_metrics
from cadenza.load._setup import Setup, setup
from cadenza.load._sweep import Criterion, Sweep, search, visit
from cadenza.load._table import print_comparison, print_formulas, print_run, print_sweep

FAILED, INVALID = 1, 3
"""Exit codes: no request succeeded; the figures say little about the server."""
_SETTINGS: Final = (
    "target", "model", "harness", "rate", "arrivals", "burstiness", "concurrency", "trace", "trace_speed",
    "sweep", "duration", "requests", "warmup", "shape", "prompt_tokens", "reply_tokens", "prompts",
    "max_tokens", "temperature", "ignore_eos", "cache_prompt", "goodput", "percentile", "processes",
    "max_lag", "seed", "timeout",
)  # fmt: skip
"""Flags that a report names; none of them can be a secret."""


async def load(args: argparse.Namespace, client: AsyncClient, settings: Settings) -> int:
    """Runs the load and writes its reports. Raises CadenzaError; of these InvalidOption for wrong usage.

    `client` is asked what the model is, and closed; `settings` are those of the load's own connections.
    """
    try:
        async with client:
            model = await client.model()
        return await _load(args, setup(args, settings, model))
    except InvalidOption:
        raise
    except ValueError as error:
        raise InvalidOption(str(error), reason="INVALID_OPTION") from None
    except (LoadError, MetricsError, OSError) as error:
        raise CadenzaError(str(error), reason="LOAD_FAILED") from None


async def _load(args: argparse.Namespace, loads: Setup) -> int:
    console, errors = Console(), Console(stderr=True)
    _check_writable(args)
    report = await _measured(args, loads, errors)
    _write(args, report)
    _show(report, console)
    return _exit_code(report)


async def _measured(args: argparse.Namespace, loads: Setup, errors: Console) -> Report:
    objectives = _values.objectives(args.goodput) if args.goodput else None
    how = Measuring(
        args.processes,
        objectives,
        _values.seconds(args.max_lag),
        await _metrics(args.metrics, loads.settings.target, errors),
    )
    display = TerminalDisplay(errors)
    if args.sweep is not None:
        sweep = await _sweep(
            args.sweep, args.percentile, objectives, lambda rate: measure(loads.load(rate), how, display)
        )
        return Report(_settings(args, loads), environment(), sweep.runs, sweep)
    if args.harness == "mlperf":
        folder = Path(args.mlperf_logs)
        run = await measure(loads.mlperf_load(folder), how, display)
        figures = await asyncio.to_thread(compare_with_mlperf, folder, run.records)
        return Report(_settings(args, loads), environment(), (run,), mlperf=figures)
    run = await measure(loads.load(), how, display)
    return Report(_settings(args, loads), environment(), (run,))


async def _sweep(
    rates: str, percentile: float, objectives: Objectives | None, at: Callable[[float], Awaitable[Measured]]
) -> Sweep:
    if objectives is None:
        raise LoadInputError(
            "--sweep looks for the highest rate that meets --goodput, such as ttft=500ms,tpot=50ms"
        )
    criterion = Criterion(objectives, percentile)
    if ":" in rates:
        low, high = _values.rate_range(rates)
        if not 0 < low < high:
            raise LoadInputError(f"{rates!r} is no range to search: give LOW:HIGH such as 1:32")
        return await search(at, low, high, criterion)
    return await visit(at, _values.rates(rates), criterion)


async def _metrics(asked: str | None, target: str, errors: Console) -> str | None:
    """Where /metrics is; None where it is not wanted, or not at its usual place."""
    if asked is not None:
        return None if asked == "off" else asked
    url = metrics_url(target)
    try:
        await asyncio.to_thread(read_metrics, url)
    except MetricsError as error:
        errors.print(f"the server's own metrics are left out: {error} (--metrics URL says where they are)")
        return None
    return url


def _settings(args: argparse.Namespace, loads: Setup) -> dict[str, str]:
    given = {name: getattr(args, name) for name in _SETTINGS}
    given["target"] = loads.settings.target
    return {name: shlex.quote(str(value)) for name, value in given.items() if value not in (None, "")}


def _show(report: Report, console: Console) -> None:
    for run in report.runs:
        print_run(run, console)
    if report.sweep is not None:
        print_sweep(report.sweep, console)
    if report.mlperf:
        print_comparison(MLPERF_TITLE, report.mlperf, console)
    print_formulas(console)


def _check_writable(args: argparse.Namespace) -> None:
    """So that a long run does not end in vain. Raises LoadInputError."""
    for name in filter(None, (args.json, args.csv, args.html)):
        path = Path(name)
        if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise LoadInputError(f"{name} cannot be written: name a file in a folder that can")


def _write(args: argparse.Namespace, report: Report) -> None:
    if args.json:
        write_json(report, Path(args.json))
    if args.csv:
        write_csv(report.runs, Path(args.csv))
    if args.html:
        write_html(report, Path(args.html))
    if args.svg:
        write_plots(report, Path(args.svg))


def _exit_code(report: Report) -> int:
    """A sweep ends well with some invalid runs, as long as it has found a rate."""
    if not any(run.summary.requests for run in report.runs):
        return FAILED
    if report.sweep is not None:
        return 0 if report.sweep.best is not None else FAILED
    return INVALID if report.runs[0].invalid else 0
