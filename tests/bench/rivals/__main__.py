"""`make bench-rivals`: Cadenza and other CPU engines on the same weights, prompts and lengths, in one go.

Installs each rival into an environment of its own and converts the weights, once; then the engines of a
division take turns, round by round. Only one computes at a time. Results go to build/bench/rivals.json,
pictures beside it.
"""

import argparse
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from deploy.demo.models import ROOT
from rich.console import Console
from tests.bench.machine import processor, read_bandwidth
from tests.bench.rivals.arena import Arena
from tests.bench.rivals.contestants import CONTESTANTS, CORES, ENGINES, Division
from tests.bench.rivals.measurement import Measurement
from tests.bench.rivals.quality import exam
from tests.bench.rivals.report import Report
from tests.bench.rivals.results import Plan, Result
from tests.bench.workload import CONCURRENCY, NEW_TOKENS, PROMPT_TOKENS, SEED

FOLDER = ROOT / "build" / "bench"
QUICK = Plan(rounds=1, concurrency=(1, 8), new_tokens=8, context=256, texts=1, questions=8)
"""Says that everything runs; its figures mean nothing."""
WIDTH = 160
"""Of tables where no terminal says."""
FULL = Plan(rounds=3, concurrency=CONCURRENCY, new_tokens=NEW_TOKENS, context=4096, texts=4, questions=100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 also where rivals could not be had; they are reported."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rivals", description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="these only (all)")
    parser.add_argument("--rounds", type=int, help=f"turns of each engine ({FULL.rounds})")
    parser.add_argument(
        "--quick", action="store_true", help="everything once and short: to see whether it runs"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # halted engines would outlive this process
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    begin = time.perf_counter()
    header = _header()
    bandwidth = header["memory_read_bytes_per_second"] / 1e9
    console.print(
        f"{header['processor']}, {CORES} cores, memory read {bandwidth:.1f} GB/s, "
        f"load average {header['load_average']:.1f}; SmolLM2-135M, {PROMPT_TOKENS} prompt + "
        f"{plan.new_tokens} new tokens, greedy, ends ignored, seed {SEED}"
    )
    results = [Result(contestant) for contestant in CONTESTANTS if contestant.engine in options.engines]
    measurement = Measurement(plan, exam(plan.texts, plan.questions))
    report = Report(header, measurement.plan, measurement.exam, results)
    for division in Division:
        run([result for result in results if result.contestant.division is division], measurement, console)
        save(report)
    show(report, console)
    console.print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")
    return 0


def run(results: Sequence[Result], measurement: Measurement, console: Console) -> None:
    """Measures those of one division."""
    names = ", ".join(result.contestant.name for result in results)
    console.print(f"{time.strftime('%H:%M:%S')} loading {names}")
    with Arena(results, measurement) as arena:
        arena.load()
        for number in range(1, measurement.plan.rounds + 1):
            console.print(f"{time.strftime('%H:%M:%S')} round {number}")
            arena.turns(partial(measurement.round, number))
        console.print(f"{time.strftime('%H:%M:%S')} quality")
        arena.turns(measurement.judge, lambda contestant: contestant.judged)
        console.print(f"{time.strftime('%H:%M:%S')} long context")
        arena.turns(measurement.fill, lambda contestant: contestant.long_context)
        for _ in range(measurement.plan.rounds):
            arena.turns(measurement.long_decode, lambda contestant: contestant.long_context)


def save(report: Report) -> None:
    """Keeps what was found so far, so that a run which is cut off is not lost."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "rivals.json").write_text(report.json(), encoding="utf-8")
    report.write_plots(FOLDER)


def show(report: Report, console: Console) -> None:
    """Prints what was found."""
    for division in Division:
        console.print(report.table(division))
    for comparison in report.comparisons():
        console.print(str(comparison), markup=False)
    for line in report.failures():
        console.print(f"no result: {line}", style="yellow", markup=False)
    console.print(f"results: {(FOLDER / 'rivals.json').relative_to(ROOT)} and rivals-*.svg beside it")


def _header() -> dict[str, Any]:
    """The machine, as it is before the first engine is loaded."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": CORES,
        "memory_read_bytes_per_second": read_bandwidth(CORES),
        "load_average": os.getloadavg()[0],
        "seed": SEED,
    }


if __name__ == "__main__":
    sys.exit(main())
