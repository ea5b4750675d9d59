"""Times steps of a CPU runner: a prompt of each length, a decode step of each batch and context.

A step that is repeated writes the same keys and values again, so it can be timed as often as one likes. A
prompt's time is the sum of the medians of its steps; equal steps of several prompts are timed once.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from tests.bench.simulation.lane_cost import ROWS_FOR_ONE
from tests.bench.workload import prompts

from cadenza.server.engine.request import GREEDY
from cadenza.server.runner.base import BlockCopy, Runner, SequenceSlice, StepBatch


class LaneRunner(Runner, Protocol):
    """A runner of lanes that tells what they do."""

    name: str

    @property
    def lane_seconds(self) -> NDArray[np.float64]:
        """[lanes, 4] Seconds each lane has spent in linear layers, attention, head and sampling."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds: of the whole step, and of what its busiest lane spent on two parts."""

    whole: float
    linear: float
    """LiteRT segments and the head."""
    attention: float
    """RoPE, KV writes, attention, and waiting for other lanes' keys."""
    readings: int
    """How often the weights are read: by each lane that has rows of its own, or once by a team of lanes."""

    def __add__(self, other: "StepTime") -> "StepTime":
        return StepTime(
            self.whole + other.whole,
            self.linear + other.linear,
            self.attention + other.attention,
            max(self.readings, other.readings),
        )


NOTHING = StepTime(0.0, 0.0, 0.0, 0)


class ScalingRuns:
    """Times one sequence's prefill, then decode steps over copies of its KV blocks."""

    def __init__(self, runner: LaneRunner, vocabulary: int, repeats: int) -> None:
        self._runner = runner
        self._vocabulary = vocabulary
        self._repeats = repeats

    def prefill(self, lengths: Sequence[int]) -> dict[int, StepTime]:
        """By length, ascending. The KV blocks 0, 1, ... hold the longest prompt afterwards."""
        limits = self._runner.limits
        (prompt,) = prompts(1, max(lengths), self._vocabulary)
        table = range(-(-len(prompt) // limits.block_size))
        known: dict[tuple[int, int, bool], StepTime] = {}
        found = {}
        for length in track(sorted(lengths), description="prefill", transient=True):
            total = NOTHING
            for start, end in _chunks(length, limits.max_step_tokens):
                step = (start, end, end == length)
                if step not in known:
                    sampling = GREEDY if end == length else None
                    part = SequenceSlice(prompt[start:end], start, table, sampling)
                    known[step] = self._time(StepBatch([part]))
                total += known[step]
            found[length] = total
        return found

    def decode(self, batches: Sequence[int], contexts: Sequence[int]) -> dict[tuple[int, int], StepTime]:
        """By sequences and positions that each attends to; `prefill` was as long as the longest context."""
        blocks = -(-max(contexts) // self._runner.limits.block_size)
        self._copy_blocks(max(batches), blocks)
        points = [(batch, context) for context in contexts for batch in batches]
        return {
            (batch, context): self._time(self._decode_step(batch, context, blocks))
            for batch, context in track(points, description="decode", transient=True)
        }

    def _copy_blocks(self, sequences: int, blocks: int) -> None:
        """Sequence s gets the first sequence's keys and values in the blocks from s * blocks on."""
        targets = range(blocks, sequences * blocks)
        copies = [BlockCopy(target % blocks, target) for target in targets]
        (prompt,) = prompts(1, 1, self._vocabulary)
        self._runner.step(StepBatch([SequenceSlice(prompt, 0, range(blocks), None)], copies))

    def _decode_step(self, batch: int, context: int, blocks: int) -> StepBatch:
        tokens = prompts(1, batch, self._vocabulary)[0]
        tables = (range(index * blocks, (index + 1) * blocks) for index in range(batch))
        parts = zip(tokens, tables, strict=True)
        return StepBatch([SequenceSlice([token], context - 1, table, GREEDY) for token, table in parts])

    def _time(self, batch: StepBatch) -> StepTime:
        self._runner.step(batch)
        times = [self._once(batch) for _ in range(self._repeats)]
        return StepTime(
            whole=statistics.median(one.whole for one in times),
            linear=statistics.median(one.linear for one in times),
            attention=statistics.median(one.attention for one in times),
            readings=times[0].readings,
        )

    def _once(self, batch: StepBatch) -> StepTime:
        before = self._runner.lane_seconds
        begin = time.perf_counter()
        self._runner.step(batch)
        whole = time.perf_counter() - begin
        spent = self._runner.lane_seconds - before
        by_lane = spent.sum(axis=1)
        linear, attention, head, _ = spent[by_lane.argmax()].tolist()
        rows, lanes = sum(len(part.token_ids) for part in batch.slices), int((by_lane > 0).sum())
        as_team = self._runner.name == "native" and rows < ROWS_FOR_ONE * lanes
        return StepTime(whole, linear + head, attention, readings=1 if as_team else lanes)


def _chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the steps of a prompt begin and end."""
    return ((start, min(start + size, length)) for start in range(0, length, size))
