"""`python -m tests.bench.hand_over`: what it costs that a device's runner is in a process of its own.

A batch goes to another process and its result comes back, by the code that the server uses, while the runner
there answers at once; so what is measured is packing, two trips through the pipe, and unpacking. It is set
beside a step: how long `--step-ms` says that one takes.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table
from tests.bench.machine import processor

from cadenza.server.engine.request import SamplingParams
from cadenza.server.runner.base import RunnerLimits, SequenceSlice, StepBatch, StepResult
from cadenza.server.runner.tensorflow.wire import pack, unpack
from cadenza.server.runner.tensorflow.worker import answer_steps

BLOCK_SIZE = 32
LIMITS = RunnerLimits(
    block_size=BLOCK_SIZE, num_blocks=1 << 16, max_step_tokens=512, max_sequences=256, max_context=1 << 17
)
CPU_STEP_MS = 279.0
"""A decode of 32 rows of SmolLM2-135M in float32 on two cores (docs/devices.md)."""


class InstantRunner:
    """Implements Runner; every token is 7, at once."""

    limits = LIMITS

    def step(self, batch: StepBatch) -> StepResult:
        return StepResult([7] * len(batch.slices))

    def close(self) -> None:
        pass


def decodes(sequences: int, context: int, sampling: SamplingParams) -> StepBatch:
    """One token of each of so many sequences, as the engine hands them over."""
    blocks = context // BLOCK_SIZE
    history = array("i", range(context)) if sampling.needs_history else array("i")
    return StepBatch(
        [
            SequenceSlice(
                token_ids=array("i", [index]),
                start=context - 1,
                block_table=array("i", range(index * blocks, (index + 1) * blocks)),
                sampling=sampling,
                history=history[:],
                prompt_length=context // 2,
            )
            for index in range(sequences)
        ]
    )


CASES = {
    "32 sequences, context 128": decodes(32, 128, SamplingParams(temperature=0.0)),
    "32 sequences, context 8192": decodes(32, 8192, SamplingParams(temperature=0.8, seed=1)),
    "32 sequences, context 8192, penalties": decodes(32, 8192, SamplingParams(repetition_penalty=1.1)),
    "256 sequences, context 1024": decodes(256, 1024, SamplingParams(temperature=0.0)),
}


def answer(pipe: Connection) -> None:
    """The other process."""
    with suppress(EOFError):
        answer_steps(pipe, InstantRunner())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where the first case takes 2 % of a step or more."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hand_over", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--step-ms", type=float, default=CPU_STEP_MS)
    options = parser.parse_args(arguments)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(theirs,))
    process.start()
    theirs.close()
    medians = {name: microseconds(ours, batch, options.rounds) for name, batch in CASES.items()}
    ours.close()
    process.join()
    console = Console()
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"medians of {options.rounds}; a step of {options.step_ms:.0f} ms"
    )
    console.print(_table(medians, options.step_ms))
    first = next(iter(medians.values()))
    return 0 if first < 0.02 * 1000 * options.step_ms else 1


def microseconds(pipe: Connection, batch: StepBatch, rounds: int) -> float:
    """The median of there and back."""
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        pipe.send_bytes(pack(batch))
        result = unpack(pipe.recv_bytes())
        taken.append(time.perf_counter() - begin)
        if len(result.token_ids) != len(batch.slices):
            raise SystemExit("the answer is of another batch")
    return 1e6 * statistics.median(taken)


def _table(medians: dict[str, float], step_ms: float) -> Table:
    table = Table(title="a batch there and its result back")
    for column in ("batch", "bytes", "microseconds", "of a step"):
        table.add_column(column, justify="left" if column == "batch" else "right")
    for name, median in medians.items():
        size = len(pack(CASES[name]))
        table.add_row(name, f"{size:,}", f"{median:.0f}", f"{median / (10 * step_ms):.2f} %")
    return table


if __name__ == "__main__":
    sys.exit(main())
