"""`make bench`: the machine's ceiling, the engine in process, and the server over gRPC on the same cores.

Every speed is the median of some runs. Results also go to build/bench/bench.json.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.demo.models import ARTIFACTS, CACHE, ROOT
from deploy.demo.serving import serve
from rich.console import Console
from rich.table import Table
from tests.bench.in_process import BenchEngine, Run, bench_engine
from tests.bench.machine import processor, read_bandwidth
from tests.bench.workload import CONCURRENCY, LONG_PROMPT_TOKENS, NEW_TOKENS, PROMPT_TOKENS, SEED, prompts

from cadenza.load import closed_loop, summarise

PROTOTYPE_BANDWIDTH = 35e9
"""Bytes per second of the machine on which the prototype was measured."""
PROTOTYPE = {1: 160.0, 8: 625.0, 32: 907.0}
"""The prototype's best tokens/s by concurrency, int8."""
RESULTS = ROOT / "build" / "bench" / "bench.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--precision", choices=sorted(ARTIFACTS), default="int8")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    console = Console()
    bandwidth = read_bandwidth(len(os.sched_getaffinity(0)))
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, memory read {bandwidth / 1e9:.1f} GB/s\n"
        f"SmolLM2-135M {options.precision}, {PROMPT_TOKENS} prompt + {NEW_TOKENS} new tokens, greedy, "
        f"ends ignored, seed {SEED}, median of {options.repeats} runs"
    )
    artifact = ARTIFACTS[options.precision]
    cache = CACHE / "server"
    runs, ttft = measure_in_process(artifact, cache, options.repeats)
    served = measure_served(artifact, cache, options.repeats)
    console.print(speed_table(runs, served, bandwidth, options.precision))
    console.print(f"TTFT of a {LONG_PROMPT_TOKENS}-token prompt, idle engine: {1000 * ttft:.0f} ms")
    console.print(shares_table(runs))
    save({"bandwidth": bandwidth, "precision": options.precision, "ttft": ttft, "served": served}, runs)
    return 0


def measure_in_process(artifact: Path, cache: Path, repeats: int) -> tuple[dict[int, Run], float]:
    """The median run by concurrency, and the median TTFT of a long prompt in seconds."""
    with bench_engine(artifact, cache) as (engine, manifest):
        vocabulary = manifest.decoder.vocabulary_size
        runs = {
            count: _median(engine, prompts(count, PROMPT_TOKENS, vocabulary), repeats)
            for count in CONCURRENCY
        }
        long_prompts = prompts(repeats + 1, LONG_PROMPT_TOKENS, vocabulary)
        ttfts = [engine.run([prompt], new_tokens=1).ttft for prompt in long_prompts]
    return runs, statistics.median(ttfts[1:])


def _median(engine: BenchEngine, batch: Sequence[tuple[int, ...]], repeats: int) -> Run:
    engine.run(batch)
    runs = sorted((engine.run(batch) for _ in range(repeats)), key=lambda run: run.tokens_per_second)
    return runs[len(runs) // 2]


def measure_served(artifact: Path, cache: Path, repeats: int) -> dict[int, float]:
    """Median tokens/s by concurrency of a server process, streaming to a client on the same cores."""
    options = {"max_tokens": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True}
    speeds = {}
    with serve({"model": artifact}, "--cache-dir", str(cache)) as server:
        for count in CONCURRENCY:
            batch = prompts(count, PROMPT_TOKENS, 49152)
            results = []
            for _ in range(repeats + 1):
                records = asyncio.run(closed_loop(server.target, batch, concurrency=count, options=options))  # type: ignore[arg-type]
                summary = summarise(records)
                if summary.errors:
                    raise SystemExit(f"requests failed: {summary.errors}")
                results.append(summary.tokens_per_second)
            speeds[count] = statistics.median(results[1:])
    return speeds


def speed_table(runs: dict[int, Run], served: dict[int, float], bandwidth: float, precision: str) -> Table:
    """Tokens per second, in all; the ratios name what they divide."""
    table = Table(title="tokens/s in all")
    columns = ["concurrent", "in process", "over gRPC", "gRPC / in process"]
    if precision == "int8":
        columns += ["prototype, scaled by bandwidth", "in process / prototype"]
    for column in columns:
        table.add_column(column, justify="right")
    for count, run in runs.items():
        row = [str(count), f"{run.tokens_per_second:.0f}", f"{served[count]:.0f}"]
        row.append(f"{served[count] / run.tokens_per_second:.2f}")
        if precision == "int8":
            expected = PROTOTYPE[count] * bandwidth / PROTOTYPE_BANDWIDTH
            row += [f"{expected:.0f}", f"{run.tokens_per_second / expected:.2f}"]
        table.add_row(*row)
    return table


def shares_table(runs: dict[int, Run]) -> Table:
    """Where a lane's time goes."""
    table = Table(title="share of the run, mean of the lanes, %")
    for column in ("concurrent", "linear layers", "attention", "sampling", "Python and waiting"):
        table.add_column(column, justify="right")
    for count, run in runs.items():
        shares = dataclasses.astuple(run.shares)
        table.add_row(str(count), *(f"{100 * share:.1f}" for share in shares))
    return table


def save(figures: dict[str, Any], runs: dict[int, Run]) -> None:
    """Writes the results where no commit finds them."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    figures["in_process"] = {count: dataclasses.asdict(run) for count, run in runs.items()}
    RESULTS.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print(f"results: {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
