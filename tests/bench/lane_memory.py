"""What lanes take of memory: each number of lanes in a process of its own, every page counted once (PSS)."""

import dataclasses
import multiprocessing
from collections.abc import Sequence

from rich.table import Table
from tests.bench.loading import load_runner, read_manifest
from tests.bench.workload import prompts

from cadenza.server.engine.request import GREEDY
from cadenza.server.runner.base import SequenceSlice, StepBatch
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.memory import ProcessMemory, process_memory

PRECISIONS = ("int8", "float32")


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """By a runner that has computed its largest step."""

    precision: str
    lanes: int
    memory: ProcessMemory


def memory_table(lane_counts: Sequence[int]) -> Table:
    """A row for each precision and number of lanes; MB are 10**6 bytes."""
    table = Table("precision", title="memory that a runner brings into use, MB")
    for column in ("lanes", "mapped", "own", "together", "more than with a lane less"):
        table.add_column(column, justify="right")
    for precision in PRECISIONS:
        before: tuple[int, float] | None = None
        for taken in measure(precision, lane_counts):
            parts = (taken.memory.mapped / 1e6, taken.memory.anonymous / 1e6)
            total = sum(parts)
            more = f"{(total - before[1]) / (taken.lanes - before[0]):.0f}" if before else ""
            table.add_row(precision, str(taken.lanes), *(f"{part:.0f}" for part in (*parts, total)), more)
            before = taken.lanes, total
    return table


def measure(precision: str, lane_counts: Sequence[int]) -> list[Taken]:
    """One process after the other. The first is left out: it may have to pack the weights."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        counts = (1, *lane_counts)
        return pool.starmap(_taken, [(precision, lanes) for lanes in counts], chunksize=1)[1:]


def largest_step(runner: CpuRunner, vocabulary: int) -> None:
    """Runs a step of max_step_tokens rows, with logits of every sequence: it touches all lanes' buffers."""
    limits = runner.limits
    rows = limits.max_step_tokens // limits.max_sequences
    parts = [
        SequenceSlice(prompt, 0, [index], GREEDY)
        for index, prompt in enumerate(prompts(limits.max_sequences, rows, vocabulary))
    ]
    runner.step(StepBatch(parts))


def _taken(precision: str, lanes: int) -> Taken:
    vocabulary = read_manifest(precision).decoder.vocabulary_size
    before = process_memory()
    runner = load_runner(precision, lanes=lanes)
    largest_step(runner, vocabulary)
    after = process_memory()
    runner.close()
    if before is None or after is None:
        raise SystemExit("this system does not tell what memory a process has (/proc/self/smaps_rollup)")
    return Taken(precision, lanes, after - before)
