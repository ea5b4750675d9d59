"""The phases of a step, as Numba kernels: what each makes of its rows, piece by piece.

Everything is of the rows that a team works on (memory.py); each lane of it calls the same phase and returns
when no piece is left, while another may still be at work on its own.
"""

from typing import NamedTuple

from numba import njit
from numba.extending import overload

from cadenza.server.runner.cpu.attention import attend_rows, rotate_and_store
from cadenza.server.runner.cpu.intrinsics import atomic_add
from cadenza.server.runner.native.memory import LANES, PHASE, ROW_BEGIN, ROWS
from cadenza.server.runner.native.products import (
    activate_tile,
    add_tile,
    gate_tile,
    inputs_of,
    multiply,
    norm_row,
    norms_of,
    num_row_blocks,
    panels_of,
    row_block,
    store_tile,
    take,
    target_of,
)
from cadenza.server.runner.native.rows import normalise
from cadenza.server.runner.native.tiles import TILE_BYTES

ROWS_TOGETHER = 4
"""Most rows of a sequence whose attention is computed at once: keys and values are read once for them."""
_PIECES = 4
"""Pieces of a phase for each lane, where there is so much work."""


class Work(NamedTuple):
    """A phase's work, `items` in all, as lanes take it piece by piece."""

    claimed: int
    """Address of how much is taken."""
    items: int
    piece: int


@njit
def work_of(team, lane, items):
    """The work of the phase that begins. Pieces are as long as may be: memory is read fastest in one go."""
    claimed = team.claims.ctypes.data + 64 * (1 + lane.control[PHASE])
    return Work(claimed, items, max(1, items // (_PIECES * lane.control[LANES])))


@njit
def one_by_one(work):
    """The same work in pieces of one item, where an item takes long."""
    return Work(work.claimed, work.items, 1)


@njit
def claim(work):
    """Takes the next piece: its begin and end, which are equal where none is left."""
    begin = min(atomic_add(work.claimed, work.piece), work.items)
    return begin, min(begin + work.piece, work.items)


@njit
def embed(model, step, team, lane):
    """A phase: the rows' hidden states before the first layer."""
    first, size = lane.control[ROW_BEGIN], model.embedding.shape[1]
    work = work_of(team, lane, lane.control[ROWS])
    begin, end = claim(work)
    while begin < end:
        for row in range(begin, end):
            token_id = step.token_ids[first + row]
            position = step.positions[first + row]
            for d in range(size):
                team.hidden[row, d] = model.embedding[token_id, d]
            if model.positions.shape[0] > 0:
                for d in range(size):
                    team.hidden[row, d] += model.positions[position, d]
        begin, end = claim(work)


@njit
def norm(model, team, lane, gains, layer):
    """A phase: the norm of every row of the residual stream, ready for a product."""
    norms, inputs = norms_of(model, team, gains, layer), inputs_of(model, team, team.normed)
    _norm_rows(work_of(team, lane, lane.control[ROWS]), norms, inputs)


@njit
def _norm_rows(work, norms, inputs):
    begin, end = claim(work)
    while begin < end:
        for row in range(begin, end):
            norm_row(norms, row, inputs, row)
            take(inputs, row)
        begin, end = claim(work)


@njit
def take_all(model, team, lane, source):
    """A phase: every row of `source`, ready for a product."""
    if model.int8:
        _take_rows(work_of(team, lane, lane.control[ROWS]), inputs_of(model, team, source))


@njit
def _take_rows(work, inputs):
    begin, end = claim(work)
    while begin < end:
        for row in range(begin, end):
            take(inputs, row)
        begin, end = claim(work)


@njit
def project(model, team, lane, source, matrix, layer, rows, out, add):
    """A phase: the product of the first `rows` rows with a matrix, stored to `out` or added to it."""
    work = work_of(team, lane, matrix.panels.shape[1])
    inputs, panels = inputs_of(model, team, source), panels_of(matrix, layer)
    _project_panels(work, inputs, panels, rows, lane.tile.ctypes.data, target_of(out), add)


@njit
def _project_panels(work, inputs, panels, rows, tile, target, add):
    begin, end = claim(work)
    while begin < end:
        for panel in range(begin, end):
            for block in range(num_row_blocks(rows)):
                first, count = row_block(rows, block)
                multiply(inputs, panels, panel, first, count, tile)
                if add:
                    add_tile(tile, count, target, first, panel)
                else:
                    store_tile(tile, count, target, first, panel)
        begin, end = claim(work)


@njit
def expand(model, team, lane, layer):
    """A phase: the MLP up to what `down` reads."""
    rows = lane.control[ROWS]
    work = work_of(team, lane, model.up.panels.shape[1] // (1 + model.gated))
    _expand_panels(
        work, inputs_of(model, team, team.normed), panels_of(model.up, layer), rows,
        lane.tile.ctypes.data, target_of(team.inner), model.gated, model.activation,
    )  # fmt: skip


@njit
def _expand_panels(work, inputs, panels, rows, tile, target, gated, activation):
    second = tile + TILE_BYTES
    begin, end = claim(work)
    while begin < end:
        for panel in range(begin, end):
            for block in range(num_row_blocks(rows)):
                first, count = row_block(rows, block)
                multiply(inputs, panels, panel + gated * panel, first, count, tile)
                activate_tile(activation, tile, count)
                if gated:
                    multiply(inputs, panels, 2 * panel + 1, first, count, second)
                    gate_tile(tile, second, count)
                store_tile(tile, count, target, first, panel)
        begin, end = claim(work)


def rotate(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer):
    """A phase: queries, and keys and values into the cache. The first five are compile-time constants."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(rotate, prefer_literal=True)
def _rotate_kernel(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer):
    def implementation(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer):
        keys, values, first = model.keys[layer], model.values[layer], lane.control[ROW_BEGIN]
        work = work_of(team, lane, lane.control[ROWS])
        begin, end = claim(work)
        while begin < end:
            for row in range(begin, end):
                qkv, position = team.qkv[row], step.positions[first + row]
                _norm_heads(qkv, 0, group * kv_heads, head_dim, model.query_norm, layer, model.epsilon)
                _norm_heads(qkv, group * kv_heads, kv_heads, head_dim, model.key_norm, layer, model.epsilon)
                table = step.tables[step.slice_of_row[first + row]]
                rotate_and_store(
                    head_dim, block, group, kv_heads, bf16, qkv, model.cosines[position],
                    model.sines[position], model.scale, keys, values, table[position // block],
                    position % block, team.query[row],
                )  # fmt: skip
            begin, end = claim(work)

    return implementation


@njit
def _norm_heads(qkv, first, count, head_dim, gains, layer, epsilon):
    if gains.gain.shape[1] > 0:
        for head in range(first, first + count):
            row = qkv[head * head_dim : (head + 1) * head_dim]
            normalise(row, head_dim, gains.gain[layer], gains.bias[layer], epsilon, 0, row)


def attend(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer):
    """A phase: attention of every row. The first five are compile-time constants."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(attend, prefer_literal=True)
def _attend_kernel(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer):
    def implementation(head_dim, block, group, kv_heads, bf16, model, step, team, lane, layer):
        first, rows = lane.control[ROW_BEGIN], lane.control[ROWS]
        work = one_by_one(work_of(team, lane, rows * kv_heads))
        item, end = claim(work)
        while item < end:
            head, row = item % kv_heads, item // kv_heads
            count = _rows_from(step, first, rows, row)
            if count == ROWS_TOGETHER:
                _attend_head(
                    head_dim, block, group, ROWS_TOGETHER, kv_heads, bf16, model, step, team, lane, layer,
                    head, row, first,
                )  # fmt: skip
            elif count > 1:
                _attend_head(
                    head_dim, block, group, 2, kv_heads, bf16, model, step, team, lane, layer, head, row,
                    first,
                )  # fmt: skip
            if count % 2:
                _attend_head(
                    head_dim, block, group, 1, kv_heads, bf16, model, step, team, lane, layer, head,
                    row + count - 1, first,
                )  # fmt: skip
            item, end = claim(work)

    return implementation


@njit
def _rows_from(step, first, rows, row):
    """How many rows of the sequence are computed together with `row`, and it is the first of; else 0."""
    place = step.place_in_slice[first + row]
    if row > 0 and place % ROWS_TOGETHER != 0:
        return 0
    last = min(rows, row + ROWS_TOGETHER - place % ROWS_TOGETHER)
    count = 1
    while row + count < last and step.place_in_slice[first + row + count] > place:
        count += 1
    return count


def _attend_head(
    head_dim, block, group, rows, kv_heads, bf16, model, step, team, lane, layer, head, row, first
):
    """One KV head of `rows` rows of a sequence from `row` on. The first six are compile-time constants."""
    raise NotImplementedError("a Numba kernel: called from compiled code only")


@overload(_attend_head, prefer_literal=True)
def _attend_head_kernel(
    head_dim, block, group, rows, kv_heads, bf16, model, step, team, lane, layer, head, row, first
):
    def implementation(
        head_dim, block, group, rows, kv_heads, bf16, model, step, team, lane, layer, head, row, first
    ):
        query_stride, out_stride = team.query.strides[0], team.mixed.strides[0]
        column = 4 * head * group * head_dim
        attend_rows(
            head_dim, block, group, rows, kv_heads, bf16, head,
            team.query.ctypes.data + row * query_stride + column, query_stride,
            model.keys.ctypes.data + layer * model.keys.strides[0],
            model.values.ctypes.data + layer * model.values.strides[0],
            step.tables[step.slice_of_row[first + row]], step.positions[first + row] + 1,
            lane.scores.ctypes.data, team.mixed.ctypes.data + row * out_stride + column, out_stride,
        )  # fmt: skip

    return implementation
