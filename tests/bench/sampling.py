"""`python -m tests.bench.sampling`: what a decode step costs when some rows ask for more than a token.

32 rows of the int8 model at the same context. Mixtures take turns step by step, so that a machine whose speed
drifts treats them alike; "over plain" is the median of the differences to the plain step of the same turn.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from deploy.demo.models import ARTIFACTS, CACHE
from google.protobuf import json_format
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.bench.machine import processor
from tests.bench.workload import SEED, prompts

from cadenza.server.engine.request import SamplingParams
from cadenza.server.runner.base import BlockCopy, SequenceSlice, StepBatch
from cadenza.server.runner.cpu.options import CpuOptions
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.cpu_program import load_cpu_program
from cadenza.v1.manifest_pb2 import ModelManifest

ROWS = 32
CONTEXT = 95
PLAIN = SamplingParams(temperature=0.8, seed=1)
ASKING = {
    "penalties": dataclasses.replace(
        PLAIN, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.5
    ),
    "300 biases": dataclasses.replace(PLAIN, logit_bias=tuple((7 * i, -1.0) for i in range(300))),
    "5 logprobs": dataclasses.replace(PLAIN, logprobs=5),
    "20 logprobs": dataclasses.replace(PLAIN, logprobs=20),
    "top_p 0.95": dataclasses.replace(PLAIN, top_p=0.95),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sampling", description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args(arguments)
    runner = load(ARTIFACTS["int8"], CACHE / "server")
    try:
        batches = {"plain": batch(PLAIN, 0)}
        for name, sampling in ASKING.items():
            batches |= {f"{count} x {name}": batch(sampling, count) for count in (1, ROWS)}
        seconds = measure(runner, batches, options.turns)
        console = Console()
        console.print(table(seconds, options.turns))
        console.print(f"copying a KV block: {1e6 * copy_seconds(runner, batches['plain']):.0f} us")
    finally:
        runner.close()
    return 0


def load(artifact: Path, cache_dir: Path) -> CpuRunner:
    """The artifact's CPU program with the server's default sizes."""
    extra = artifact / "assets.extra"
    manifest = json_format.Parse((extra / "manifest.json").read_text(encoding="utf-8"), ModelManifest())
    return load_cpu_program(extra / "cpu", manifest, CpuOptions(cache_dir=cache_dir))


def batch(asking: SamplingParams, count: int) -> StepBatch:
    """One decode step of all rows, `count` of which ask."""
    slices = []
    for index, prompt in enumerate(prompts(ROWS, CONTEXT + 1, 49152)):
        # Spread over the rows, so that every lane has its share of those that ask.
        sampling = asking if index * count % ROWS < count else PLAIN
        slices.append(
            SequenceSlice(
                token_ids=array("i", prompt[-1:]),
                start=CONTEXT,
                block_table=array("i", range(4 * index, 4 * index + 4)),
                sampling=sampling,
                history=array("i", prompt) if sampling.needs_history else (),
                prompt_length=CONTEXT // 2,
            )
        )
    return StepBatch(slices)


def measure(
    runner: CpuRunner, batches: dict[str, StepBatch], turns: int
) -> dict[str, list[tuple[float, float]]]:
    """For each step of each mixture: its seconds, and those of all lanes' sampling."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in batches}
    for turn in track(range(turns + 3), description="turns", transient=True):
        for name, work in batches.items():
            before = runner.lane_seconds
            begin = time.perf_counter()
            runner.step(work)
            seconds = time.perf_counter() - begin
            sampling = float((runner.lane_seconds - before)[:, -1].sum())
            if turn >= 3:
                found[name].append((seconds, sampling))
    return found


def copy_seconds(runner: CpuRunner, work: StepBatch) -> float:
    """Seconds that one copy adds to a step: median of the differences, over the copies of a step."""
    copies = [BlockCopy(4 * index, 4 * ROWS + index) for index in range(ROWS)]
    differences = []
    for _ in range(20):
        begin = time.perf_counter()
        runner.step(work)
        middle = time.perf_counter()
        runner.step(dataclasses.replace(work, copies=copies))
        differences.append(time.perf_counter() - middle - (middle - begin))
    return statistics.median(differences) / len(copies)


def table(seconds: dict[str, list[tuple[float, float]]], turns: int) -> Table:
    """Medians in milliseconds."""
    found = Table(title=f"{ROWS} rows, context {CONTEXT + 1}, seed {SEED}, {turns} turns; {processor()}")
    for column in ("asking", "step, ms", "over plain, ms", "sampling of all lanes, ms"):
        found.add_column(column, justify="left" if column == "asking" else "right")
    plain = np.array(seconds["plain"])
    for name, steps in seconds.items():
        step, sampling = np.median(np.array(steps), axis=0)
        over = np.median((np.array(steps) - plain)[:, 0])
        found.add_row(name, *(f"{1000 * value:.2f}" for value in (step, over, sampling)))
    return found


if __name__ == "__main__":
    sys.exit(main())
