"""`python -m tests.bench.interference`: what long prompts do to the streams that run, by prefill budget.

8 streams run alone; then prompts of 2,000 tokens arrive continuously, 2 in the engine at any time; then the
streams run alone again. ITL is the time between a stream's tokens. "p99 / quiet" is the p99 of the streams'
ITL while long prompts are in the engine, by the median of their ITL while none is, in the same run. Budgets
take turns, and each figure is the median of the runs. Prompts are distinct and not cached.
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence

from deploy.demo.models import ARTIFACTS, CACHE
from deploy.demo.serving import serve
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.bench.interference_runs import STREAMS, Interference, in_process, served
from tests.bench.machine import processor
from tests.bench.sampling import load
from tests.bench.workload import SEED

BUDGETS = (16, 24, 32, 48, 64, 128)
_ROWS: dict[str, Callable[[Interference], float]] = {
    "quiet ITL p50, ms": lambda run: 1000 * run.quiet_median,
    "quiet p99 / quiet": lambda run: run.quiet(99) / run.quiet_median,
    "ITL p50, ms": lambda run: 1000 * run.loaded(50),
    "p99, ms": lambda run: 1000 * run.loaded(99),
    "p50 / quiet": lambda run: run.loaded(50) / run.quiet_median,
    "p99 / quiet": lambda run: run.loaded(99) / run.quiet_median,
    "prefill tokens/s": lambda run: run.prefill_speed,
    "long TTFT, s": lambda run: statistics.median(run.long_ttfts),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.interference", description=__doc__)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--served", action="store_true", help="over gRPC, instead of in process")
    options = parser.parse_args(arguments)
    measure = measure_served if options.served else measure_in_process
    runs = measure(options.budgets, options.repeats)
    console = Console()
    where = "over gRPC, the client on the same cores" if options.served else "in process"
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M int8 {where}, seed {SEED}, medians of {options.repeats} runs"
    )
    console.print(_table(runs))
    return 0


def measure_in_process(budgets: Sequence[int], repeats: int) -> dict[int, list[Interference]]:
    """Runs by budget, on one runner."""
    runner = load(ARTIFACTS["int8"], CACHE / "server")
    runs: dict[int, list[Interference]] = {budget: [] for budget in budgets}
    try:
        runner.warm_up()
        for budget in _turns(budgets, repeats):
            runs[budget].append(in_process(runner, budget))
    finally:
        runner.close()
    return runs


def measure_served(budgets: Sequence[int], repeats: int) -> dict[int, list[Interference]]:
    """Runs by budget, each with a server of its own."""
    runs: dict[int, list[Interference]] = {budget: [] for budget in budgets}
    for budget in _turns(budgets, repeats):
        budget_flags = ("--mixed-prefill-tokens", str(budget), "--speculation-tokens", "0")
        # A message a token, so that what is measured is the time between tokens.
        flags = ("--cache-dir", str(CACHE / "server"), "--message-spacing-ms", "0", *budget_flags)
        with serve({"model": ARTIFACTS["int8"]}, *flags) as server:
            runs[budget].append(asyncio.run(served(server.target)))
    return runs


def _turns(budgets: Sequence[int], repeats: int) -> Iterable[int]:
    return track(list(budgets) * repeats, description="runs", transient=True)


def _table(runs: dict[int, list[Interference]]) -> Table:
    table = Table("prefill budget, tokens", title=f"{STREAMS} streams while 2,000-token prompts arrive")
    for budget in runs:
        table.add_column(str(budget), justify="right")
    for name, value in _ROWS.items():
        medians = (statistics.median(map(value, found)) for found in runs.values())
        table.add_row(name, *(f"{median:.2f}" for median in medians))
    ratios = [[_ROWS["p99 / quiet"](run) for run in found] for found in runs.values()]
    table.add_row("p99 / quiet, least", *(f"{min(of_budget):.2f}" for of_budget in ratios))
    table.add_row("p99 / quiet, most", *(f"{max(of_budget):.2f}" for of_budget in ratios))
    return table


if __name__ == "__main__":
    sys.exit(main())
