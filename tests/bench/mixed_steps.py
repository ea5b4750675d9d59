"""`python -m tests.bench.mixed_steps`: prefill and decode in one step of the TensorFlow runner, or in turn.

The same work on SmolLM2-135M in float32, compiled by XLA on this CPU, in this process: some sequences decode
a token each and another prefills a chunk of its prompt. Once all of it is one batch, once the decodes are a
batch and the chunk is the next. Both are run in turn, round by round, with the same shapes of `advance`; what
differs is how often a step is begun, and how many calls the sampler takes. The first round, which compiles,
is not counted.
"""

import argparse
import os
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

from deploy.demo.models import ARTIFACTS
from rich.console import Console
from tests.bench.machine import processor
from tests.bench.workload import SEED, prompts
from tests.runner.tensorflow.exported import load

from cadenza.server.engine.request import GREEDY
from cadenza.server.runner.base import Runner, SequenceSlice, StepBatch

CONTEXT = 96
"""Positions of each sequence that decodes."""
VOCABULARY = 49_152


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mixed_steps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--decodes", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--artifact", type=Path, default=ARTIFACTS["float32"])
    options = parser.parse_args(arguments)
    runner = load(options.artifact, kv_cache_bytes=256 << 20, max_step_tokens=128, max_sequences=32)
    slices = work(options.decodes, options.chunk, runner.limits.block_size)
    decode, prefill = StepBatch(slices[:-1]), StepBatch(slices[-1:])
    mixed, apart = [], []
    for _ in range(options.rounds + 1):
        mixed.append([seconds(runner, StepBatch(slices))])
        apart.append([seconds(runner, decode), seconds(runner, prefill)])
    del mixed[0], apart[0]
    console = Console()
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M float32, {options.decodes} sequences decode at context {CONTEXT}, a chunk of "
        f"{options.chunk} tokens is prefilled, seed {SEED}"
    )
    best = [1000 * min(one[index] for one in apart) for index in range(2)]
    console.print(
        f"best: in one step {1000 * min(one for (one,) in mixed):.0f} ms; in turn {best[0]:.0f} ms for the "
        f"decodes and {best[1]:.0f} ms for the chunk"
    )
    ratio = statistics.median(sum(two) / one for (one,), two in zip(mixed, apart, strict=True))
    console.print(f"in turn / in one step: median of {options.rounds} rounds {ratio:.2f}")
    runner.close()
    return 0


def work(decodes: int, chunk: int, block_size: int) -> list[SequenceSlice]:
    """Slices that decode, and at last one that prefills; each has KV blocks of its own."""
    blocks = -(-CONTEXT // block_size)
    tables = [array("i", range(first * blocks, (first + 1) * blocks)) for first in range(decodes + 1)]
    *last, prompt = prompts(decodes + 1, chunk, VOCABULARY)
    return [
        *(
            SequenceSlice(array("i", tokens[:1]), CONTEXT - 1, table, GREEDY)
            for tokens, table in zip(last, tables[:-1], strict=True)
        ),
        SequenceSlice(array("i", prompt), 0, tables[-1], GREEDY),
    ]


def seconds(runner: Runner, batch: StepBatch) -> float:
    """How long a step takes."""
    begin = time.perf_counter()
    runner.step(batch)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
