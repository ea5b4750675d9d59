"""The static shapes that are compiled, and how a step's work is cut into calls of those shapes.

A call advances R sequences by at most C tokens each, over at most P KV blocks each. Decode has C = 1 and
R in powers of two; prefill has few combinations of R * C <= max_step_tokens; P grows by a factor of four.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from cadenza.server.runner.base import RunnerLimits

_FIRST_POSITIONS = 256
"""Positions that the smallest bucket covers."""
_POSITIONS_FACTOR = 4
_TYPICAL_CONTEXT = 1024
"""So many positions of every sequence that may run fit into one call."""
_COARSE_FACTOR = 8
"""Between numbers of rows above the smallest positions."""
_LEAST_COLUMNS = 16
_COLUMNS_FACTOR = 4
HEAD_ROWS = 16
"""Rows of a sampler's call that has penalties, biases or log-probabilities."""
COPIES = 8
"""Block copies of a call."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A static shape of `advance`."""

    rows: int
    columns: int
    blocks: int


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """Slices, by index, that go through one call: at most bucket.rows of them."""

    bucket: Bucket
    slices: tuple[int, ...]


class Buckets:
    """All static shapes of a runner with these limits."""

    def __init__(self, limits: RunnerLimits) -> None:
        self._limits = limits
        self._columns = [1, *_prefill_columns(limits.max_step_tokens)]
        self._blocks = _block_levels(limits)
        self._rows = {
            (columns, blocks): self._rows_of(columns, blocks)
            for shorter, columns in itertools.pairwise([0, *self._columns])
            for blocks in self._blocks
            if blocks * limits.block_size > shorter
        }
        self.sampler_rows = _powers_of_two(limits.max_sequences)
        """Rows of a sampler's call, ascending."""

    @property
    def all(self) -> list[Bucket]:
        """Every shape of `advance`, small ones first."""
        found = [
            Bucket(rows, columns, blocks)
            for (columns, blocks), options in self._rows.items()
            for rows in options
        ]
        return sorted(found, key=lambda one: (one.columns, one.blocks, one.rows))

    def plan(self, lengths: Sequence[int], blocks: Sequence[int]) -> list[Call]:
        """Cuts a step into calls.

        lengths[i] are slice i's tokens, at most max_step_tokens; blocks[i] the KV blocks that its positions
        span. Slices of one column count go together, those that span most first.
        """
        by_columns: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            by_columns.setdefault(_at_least(self._columns, length), []).append(index)
        return [
            call
            for columns, indices in sorted(by_columns.items())
            for call in self._calls(columns, indices, blocks)
        ]

    def sampler_calls(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """Cuts so many rows into calls of the sampler: begin, end, and rows of the bucket."""
        most = self.sampler_rows[-1]
        for begin in range(0, rows, most):
            end = min(rows, begin + most)
            yield begin, end, _at_least(self.sampler_rows, end - begin)

    def _calls(self, columns: int, indices: list[int], blocks: Sequence[int]) -> Iterator[Call]:
        longest_first = sorted(indices, key=lambda index: -blocks[index])
        while longest_first:
            level = _at_least(self._blocks, blocks[longest_first[0]])
            options = self._rows[columns, level]
            rows = _at_least(options, min(len(longest_first), options[-1]))
            yield Call(Bucket(rows, columns, level), tuple(longest_first[:rows]))
            longest_first = longest_first[rows:]

    def _rows_of(self, columns: int, blocks: int) -> list[int]:
        """Ascending."""
        limits = self._limits
        positions = max(limits.max_sequences * _TYPICAL_CONTEXT, limits.max_context)
        most = min(limits.max_sequences, max(1, positions // (blocks * limits.block_size)))
        if columns == 1:
            every = _powers_of_two(most)
            return every if blocks == self._blocks[0] else _thinned(every)
        most = min(most, max(1, limits.max_step_tokens // columns))
        return [1, most] if columns == self._columns[1] and most > 1 else [most]


def _block_levels(limits: RunnerLimits) -> list[int]:
    """Ascending; the last is the whole context. One that is more than half of it is left out."""
    whole = -(-limits.max_context // limits.block_size)
    levels = []
    level = max(1, _FIRST_POSITIONS // limits.block_size)
    while 2 * level < whole:
        levels.append(level)
        level *= _POSITIONS_FACTOR
    return [*levels, whole]


def _prefill_columns(max_step_tokens: int) -> list[int]:
    """Ascending; the last is a whole step."""
    columns = []
    size = _LEAST_COLUMNS
    while 2 * size <= max_step_tokens:
        columns.append(size)
        size *= _COLUMNS_FACTOR
    return [*columns, max_step_tokens]


def _powers_of_two(most: int) -> list[int]:
    """1, 4, 8, 16, ... and `most`: two rows cost about what four do."""
    powers = [1]
    size = 4
    while size < most:
        powers.append(size)
        size *= 2
    return [*powers, most] if most > 1 else powers


def _thinned(rows: list[int]) -> list[int]:
    """From the largest down by a factor, and 1."""
    kept = [rows[-1]]
    while kept[-1] > _COARSE_FACTOR:
        kept.append(_at_least(rows, kept[-1] // _COARSE_FACTOR))
    return sorted({1, *kept})


def _at_least(sizes: Sequence[int], size: int) -> int:
    """The smallest of ascending `sizes` that is no smaller than `size`."""
    return sizes[bisect.bisect_left(sizes, size)]
