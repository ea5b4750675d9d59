"""The static shapes that are compiled, and how a step's work is cut into calls of those shapes.

A call advances R rows by at most C tokens each, over at most P KV blocks each. A token that decodes is a row
of one column. A prefill chunk is cut into rows of few columns, which may go through one call: in every layer
all rows write their keys and values before any reads. R is in powers of two; P grows by factors of 3 to 4.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from cadenza.server.runner.base import RunnerLimits

_FIRST_POSITIONS = (128, 384, 1024)
"""Positions that the smallest buckets cover: a short question and its answer, a longer one, most chats."""
_POSITIONS_FACTOR = 4
"""Between larger buckets."""
_TYPICAL_CONTEXT = 1024
"""So many positions of every sequence that may run fit into one call."""
_COARSE_FACTOR = 8
"""Between numbers of rows above the smallest positions."""
_COLUMNS = 16
"""Of a row of prefill: what is not a multiple of it is padded."""
_WIDE_COLUMNS = 64
_LONG_POSITIONS = 1024
"""Each row gathers all its keys and values: over more positions than these, longer chunks have wide rows."""
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
class Row:
    """Tokens begin to end (exclusive) of a slice, by its index: one row of a call."""

    slice: int
    begin: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What goes through one call: at most bucket.rows rows."""

    bucket: Bucket
    rows: tuple[Row, ...]


class Buckets:
    """All static shapes of a runner with these limits."""

    def __init__(self, limits: RunnerLimits) -> None:
        self._limits = limits
        self._blocks = _block_levels(limits)
        self._rows = {
            (columns, blocks): self._rows_of(columns, blocks)
            for blocks in self._blocks
            for columns in self._columns_of(blocks)
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
        """Cuts a step into calls, to be made in this order.

        lengths[i] are slice i's tokens, at most max_step_tokens; blocks[i] the KV blocks that its positions
        span. Rows of one column count go together, those that span most first, those of one slice in order.
        """
        by_columns: dict[int, list[Row]] = {}
        for index in sorted(range(len(lengths)), key=lambda index: -blocks[index]):
            columns = self._columns_for(lengths[index], blocks[index])
            by_columns.setdefault(columns, []).extend(_cut(index, lengths[index], columns))
        return [
            call
            for columns, rows in sorted(by_columns.items())
            for call in self._calls(columns, rows, blocks)
        ]

    def sampler_calls(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """Cuts so many rows into calls of the sampler: begin, end, and rows of the bucket."""
        most = self.sampler_rows[-1]
        for begin in range(0, rows, most):
            end = min(rows, begin + most)
            yield begin, end, _at_least(self.sampler_rows, end - begin)

    def _calls(self, columns: int, rows: list[Row], blocks: Sequence[int]) -> Iterator[Call]:
        while rows:
            level = _at_least(self._blocks, blocks[rows[0].slice])
            options = self._rows[columns, level]
            count = _at_least(options, min(len(rows), options[-1]))
            yield Call(Bucket(count, columns, level), tuple(rows[:count]))
            rows = rows[count:]

    def _columns_of(self, blocks: int) -> list[int]:
        """The columns that rows over so many blocks may have, ascending."""
        most = min(self._limits.max_step_tokens, blocks * self._limits.block_size)
        wide = [_WIDE_COLUMNS] if self._is_long(blocks) else []
        return sorted({min(columns, most) for columns in (1, _COLUMNS, *wide)})

    def _columns_for(self, length: int, blocks: int) -> int:
        """The columns of a slice's rows: the fewest that hold it whole, or else the most that there are."""
        columns = self._columns_of(_at_least(self._blocks, blocks))
        return _at_least(columns, min(length, columns[-1]))

    def _rows_of(self, columns: int, blocks: int) -> list[int]:
        """Ascending."""
        limits = self._limits
        positions = max(limits.max_sequences * _TYPICAL_CONTEXT, limits.max_context)
        most = max(1, positions // (blocks * limits.block_size))
        if columns == 1:
            every = _powers_of_two(min(most, limits.max_sequences))
            return every if blocks == self._blocks[0] else _thinned(every)
        most = min(most, limits.max_step_tokens // columns)
        return [1] if most <= 2 or (self._is_long(blocks) and columns == _COLUMNS) else [1, most]

    def _is_long(self, blocks: int) -> bool:
        return blocks * self._limits.block_size > _LONG_POSITIONS


def _cut(index: int, length: int, columns: int) -> Iterator[Row]:
    """The rows of a slice."""
    for begin in range(0, length, columns):
        yield Row(index, begin, min(begin + columns, length))


def _block_levels(limits: RunnerLimits) -> list[int]:
    """Ascending; the last is the whole context. One that is more than half of it is left out."""
    whole = -(-limits.max_context // limits.block_size)
    larger = (_FIRST_POSITIONS[-1] * _POSITIONS_FACTOR**power for power in itertools.count(1))
    levels = (
        max(1, positions // limits.block_size) for positions in itertools.chain(_FIRST_POSITIONS, larger)
    )
    return [*itertools.takewhile(lambda level: 2 * level < whole, levels), whole]


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
