"""`make bench`: the machine's ceiling, the engine in process, and the server over gRPC on the same cores.

Every speed is the median of some runs, without drafts: those have a benchmark of their own, speculation.py.
Results also go to build/bench/bench.json.
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

import uvloop
from deploy.demo.models import ARTIFACTS, CACHE, ROOT
from deploy.demo.serving import serve
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.bench.in_process import Run, bench_engine
from tests.bench.machine import processor, read_bandwidth
from tests.bench.workload import CONCURRENCY, LONG_PROMPT_TOKENS, NEW_TOKENS, PROMPT_TOKENS, SEED, prompts

from cadenza.client import CompletionOptions
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
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores\n"
        f"SmolLM2-135M {options.precision}, {PROMPT_TOKENS} prompt + {NEW_TOKENS} new tokens, greedy, "
        f"ends ignored, seed {SEED}; medians of {options.repeats} rounds of memory, engine and server in turn"
    )
    results = measure(ARTIFACTS[options.precision], CACHE / "server", options.repeats)
    console.print(f"memory read {results.bandwidth / 1e9:.1f} GB/s on all cores")
    console.print(speed_table(results, options.precision))
    console.print(
        f"TTFT of a {LONG_PROMPT_TOKENS}-token prompt, idle engine: {1000 * results.ttft:.0f} ms. "
        f"Server: READY after {results.ready_seconds:.1f} s, peak {results.server_megabytes:.0f} MB resident."
    )
    console.print(shares_table(results))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(dataclasses.asdict(results), indent=2), encoding="utf-8")
    console.print(f"results: {RESULTS.relative_to(ROOT)}")
    return 0


@dataclasses.dataclass(frozen=True)
class Results:
    """Medians of a benchmark; the dictionaries are by concurrency."""

    bandwidth: float
    """Bytes per second."""
    in_process: dict[int, Run]
    served: dict[int, float]
    """Tokens per second over gRPC."""
    served_share: dict[int, float]
    """Tokens per second over gRPC by those in process, round by round."""
    ttft: float
    """Of a long prompt, seconds."""
    ready_seconds: float
    server_megabytes: float


def measure(artifact: Path, cache: Path, repeats: int) -> Results:
    """Runs engine and server in turn, so that a machine whose speed drifts treats both alike."""
    bandwidths: list[float] = []
    runs: dict[int, list[Run]] = {count: [] for count in CONCURRENCY}
    served: dict[int, list[float]] = {count: [] for count in CONCURRENCY}
    ttfts: list[float] = []
    with (
        bench_engine(artifact, cache) as (engine, manifest),
        serve({"model": artifact}, "--cache-dir", str(cache), "--speculation-tokens", "0") as server,
    ):
        vocabulary = manifest.decoder.vocabulary_size
        long_prompts = prompts(repeats + 1, LONG_PROMPT_TOKENS, vocabulary)
        for number in track(range(repeats + 1), description="rounds", transient=True):
            bandwidths.append(read_bandwidth(len(os.sched_getaffinity(0))))
            for count in CONCURRENCY:
                batch = prompts(count, PROMPT_TOKENS, vocabulary)
                runs[count].append(engine.run(batch))
                served[count].append(run_served(server.target, batch))
            ttfts.append(engine.run([long_prompts[number]], new_tokens=1).ttft)
        megabytes = server.peak_bytes() / 1e6
    shares = {
        count: statistics.median(
            over / run.tokens_per_second for over, run in zip(served[count][1:], runs[count][1:], strict=True)
        )
        for count in CONCURRENCY
    }
    return Results(
        bandwidth=statistics.median(bandwidths[1:]),
        in_process={count: _median(runs[count][1:]) for count in CONCURRENCY},
        served={count: statistics.median(served[count][1:]) for count in CONCURRENCY},
        served_share=shares,
        ttft=statistics.median(ttfts[1:]),
        ready_seconds=server.ready_seconds,
        server_megabytes=megabytes,
    )


def run_served(target: str, batch: Sequence[tuple[int, ...]]) -> float:
    """Tokens per second of all prompts at once, streamed by a client in this process."""
    options: CompletionOptions = {
        "max_tokens": NEW_TOKENS,
        "temperature": 0.0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `cadenza load` does
        records = runner.run(closed_loop(target, batch, concurrency=len(batch), options=options))
    summary = summarise(records)
    if summary.errors:
        raise SystemExit(f"requests failed: {summary.errors}")
    return summary.tokens_per_second


def _median(runs: Sequence[Run]) -> Run:
    return sorted(runs, key=lambda run: run.tokens_per_second)[len(runs) // 2]


def speed_table(results: Results, precision: str) -> Table:
    """Tokens per second, in all; the ratios name what they divide."""
    table = Table(title="tokens/s in all")
    columns = ["concurrent", "in process", "over gRPC", "gRPC / in process"]
    if precision == "int8":
        columns += ["prototype, scaled by bandwidth", "in process / prototype"]
    for column in columns:
        table.add_column(column, justify="right")
    for count, run in results.in_process.items():
        row = [str(count), f"{run.tokens_per_second:.0f}", f"{results.served[count]:.0f}"]
        row.append(f"{results.served_share[count]:.2f}")
        if precision == "int8":
            expected = PROTOTYPE[count] * results.bandwidth / PROTOTYPE_BANDWIDTH
            row += [f"{expected:.0f}", f"{run.tokens_per_second / expected:.2f}"]
        table.add_row(*row)
    return table


def shares_table(results: Results) -> Table:
    """Where the busiest lane's time goes."""
    table = Table(title="share of the run, busiest lane, %")
    for column in ("concurrent", "linear layers", "attention", "sampling", "Python and waiting"):
        table.add_column(column, justify="right")
    for count, run in results.in_process.items():
        shares = dataclasses.astuple(run.shares)
        table.add_row(str(count), *(f"{100 * share:.1f}" for share in shares))
    return table


if __name__ == "__main__":
    sys.exit(main())
