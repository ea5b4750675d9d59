"""Matrix products of a step's rows, panel by panel, as Numba kernels.

int8: each row is quantised before a product and the product summed in integers, which is exact; float32 sums
in the order of the inputs. Either way a row's result depends on the row alone. Functions here take addresses:
a panel or a row is computed in less time than arrays take to be handed over.
"""

from typing import NamedTuple

import numpy as np
from numba import carray, njit

from cadenza.server.runner.cpu.intrinsics import call_address, pointer
from cadenza.server.runner.native.rows import activate, normalise, quantise
from cadenza.server.runner.native.tiles import MOST_ROWS, PANEL

_INT8_OFFSET = np.int32(128)
"""Weights are stored as unsigned bytes."""


class Inputs(NamedTuple):
    """The rows of a product, float32, and where they go when they are quantised."""

    int8: int
    tile: int
    """Address of `multiply_tile` for their number format."""
    rows: int
    stride: int
    """Bytes from row to row."""
    width: int
    levels: int
    levels_stride: int
    scales: int
    zeros: int
    totals: int


class Panels(NamedTuple):
    """One layer's matrix."""

    panels: int
    panel_bytes: int
    steps: int
    """As multiply_tile takes them."""
    scales: int
    sums: int
    bias: int


class Target(NamedTuple):
    """Where a product goes: a float32 array [T, outputs], and bytes from row to row."""

    address: int
    stride: int


class Norms(NamedTuple):
    """A norm of rows of the residual stream."""

    hidden: int
    stride: int
    size: int
    gain: int
    bias: int
    epsilon: np.float32
    centred: int


@njit
def inputs_of(model, team, source):
    """source: [T, inputs] float32."""
    return Inputs(
        model.int8, model.tile, source.ctypes.data, source.strides[0], source.shape[1],
        team.levels.ctypes.data, team.levels.strides[0], team.scales.ctypes.data, team.zeros.ctypes.data,
        team.totals.ctypes.data,
    )  # fmt: skip


@njit
def panels_of(matrix, layer):
    """A layer of a Matrix."""
    panels, column = matrix.panels, layer * matrix.bias.strides[0]
    return Panels(
        panels.ctypes.data + layer * panels.strides[0], panels.strides[1], panels.shape[2],
        matrix.scales.ctypes.data + column, matrix.sums.ctypes.data + column,
        matrix.bias.ctypes.data + column,
    )  # fmt: skip


@njit
def norms_of(model, team, gains, layer):
    """A layer of Gains."""
    offset = layer * gains.gain.strides[0]
    return Norms(
        team.hidden.ctypes.data, team.hidden.strides[0], model.embedding.shape[1],
        gains.gain.ctypes.data + offset, gains.bias.ctypes.data + offset, model.epsilon, model.centred,
    )  # fmt: skip


@njit
def target_of(array):
    """array: [T, outputs] float32."""
    return Target(array.ctypes.data, array.strides[0])


@njit
def _floats(address, count):
    return carray(pointer(address), count, np.float32)


@njit
def norm_row(norms, source, inputs, row):
    """Makes the norm of row `source` of the residual stream row `row` of the inputs."""
    normalise(
        _floats(norms.hidden + source * norms.stride, norms.size), norms.size,
        _floats(norms.gain, norms.size), _floats(norms.bias, norms.size), norms.epsilon, norms.centred,
        _floats(inputs.rows + row * inputs.stride, norms.size),
    )  # fmt: skip


@njit(error_model="numpy")
def take(inputs, row):
    """Prepares a row for the product."""
    if inputs.int8:
        levels = carray(pointer(inputs.levels + row * inputs.levels_stride), inputs.width, np.int8)
        total, scale, zero = quantise(_floats(inputs.rows + row * inputs.stride, inputs.width), levels)
        _floats(inputs.scales, row + 1)[row] = scale
        carray(pointer(inputs.zeros), row + 1, np.int32)[row] = zero
        carray(pointer(inputs.totals), row + 1, np.int32)[row] = total


@njit(error_model="numpy")
def multiply(inputs, layer, panel, first, count, out):
    """out[r, c] = product of row first + r with column c of a panel, bias added.

    Every row has been prepared by `take`. out: address of [count, PANEL] float32.
    """
    weights = layer.panels + panel * layer.panel_bytes
    column = 4 * panel * PANEL
    bias = _floats(layer.bias + column, PANEL)
    tile = carray(pointer(out), (count, PANEL), np.float32)
    if inputs.int8:
        row = inputs.levels + first * inputs.levels_stride
        call_address(inputs.tile, (row, inputs.levels_stride, count, weights, layer.steps, out))
        totals = carray(pointer(out), (count, PANEL), np.int32)
        scales = _floats(layer.scales + column, PANEL)
        sums = carray(pointer(layer.sums + column), PANEL, np.int32)
        row_scales = _floats(inputs.scales + 4 * first, count)
        row_zeros = carray(pointer(inputs.zeros + 4 * first), count, np.int32)
        row_totals = carray(pointer(inputs.totals + 4 * first), count, np.int32)
        for r in range(count):
            offset, zero, scale = _INT8_OFFSET * row_totals[r], row_zeros[r], row_scales[r]
            for c in range(PANEL):
                total = np.int32(totals[r, c] - offset - zero * sums[c])
                tile[r, c] = np.float32(total) * (scale * scales[c]) + bias[c]
    else:
        row = inputs.rows + first * inputs.stride
        call_address(inputs.tile, (row, inputs.stride, count, weights, layer.steps, out))
        for r in range(count):
            for c in range(PANEL):
                tile[r, c] += bias[c]


@njit
def num_row_blocks(rows):
    """Blocks of at most MOST_ROWS."""
    return (rows + MOST_ROWS - 1) // MOST_ROWS


@njit
def row_block(rows, index):
    """First row and number of rows of block `index`, where `rows` are cut into blocks of about equal size."""
    blocks = num_row_blocks(rows)
    first = rows * index // blocks
    return first, rows * (index + 1) // blocks - first


@njit(error_model="numpy")
def store_tile(tile, count, target, first, panel):
    """target[first + r, panel * PANEL + c] = tile[r, c]; tile: address of [count, PANEL] float32."""
    values = carray(pointer(tile), (count, PANEL), np.float32)
    for r in range(count):
        out = _floats(target.address + (first + r) * target.stride + 4 * PANEL * panel, PANEL)
        for c in range(PANEL):
            out[c] = values[r, c]


@njit(error_model="numpy")
def add_tile(tile, count, target, first, panel):
    """target[first + r, panel * PANEL + c] += tile[r, c]"""
    values = carray(pointer(tile), (count, PANEL), np.float32)
    for r in range(count):
        out = _floats(target.address + (first + r) * target.stride + 4 * PANEL * panel, PANEL)
        for c in range(PANEL):
            out[c] += values[r, c]


@njit(error_model="numpy")
def activate_tile(kind, tile, count):
    """tile[r, c] = activation(tile[r, c])"""
    activate(_floats(tile, count * PANEL), kind)


@njit(error_model="numpy")
def gate_tile(tile, gate, count):
    """tile[r, c] *= gate[r, c]"""
    values, gates = _floats(tile, count * PANEL), _floats(gate, count * PANEL)
    for i in range(count * PANEL):
        values[i] *= gates[i]
