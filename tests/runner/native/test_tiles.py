"""The emitted vector loops against NumPy."""

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from cadenza.server.runner.native.tiles import (
    MOST_ROWS,
    PANEL,
    has_float_products,
    has_int8_products,
    multiply_tile,
    value_range,
)

INPUTS = 64


@njit
def int8_tile(rows, panel, out):  # type: ignore[no-untyped-def]
    steps = np.int64(panel.shape[0])
    multiply_tile(
        1, rows.ctypes.data, rows.strides[0], rows.shape[0], panel.ctypes.data, steps, out.ctypes.data
    )


@njit
def float_tile(rows, panel, out):  # type: ignore[no-untyped-def]
    steps = np.int64(panel.shape[0])
    multiply_tile(
        0, rows.ctypes.data, rows.strides[0], rows.shape[0], panel.ctypes.data, steps, out.ctypes.data
    )


@njit
def extremes(row):  # type: ignore[no-untyped-def]
    return value_range(row.ctypes.data, np.int64(row.shape[0]))


def int8_panel(weights: NDArray[np.int8]) -> NDArray[np.uint8]:
    """[PANEL, inputs] -> [inputs / 4, PANEL, 4], each plus 128."""
    shifted = (weights.astype(np.int16) + 128).astype(np.uint8)
    return np.ascontiguousarray(shifted.reshape(PANEL, -1, 4).transpose(1, 0, 2))


@pytest.mark.skipif(not has_int8_products(), reason="this processor lacks AVX-512 VNNI")
@pytest.mark.parametrize("count", range(1, MOST_ROWS + 1))
def test_int8_products_are_exact_at_the_ends_of_the_range_too(count: int) -> None:
    random = np.random.default_rng(count)
    rows = random.integers(-128, 128, (count, INPUTS), dtype=np.int8)
    weights = random.integers(-127, 128, (PANEL, INPUTS), dtype=np.int8)
    rows[0], weights[0] = -128, 127
    out = np.zeros((count, PANEL), np.int32)
    int8_tile(rows, int8_panel(weights), out)
    assert np.array_equal(out, rows.astype(np.int32) @ (weights.astype(np.int32) + 128).T)


@pytest.mark.skipif(not has_float_products(), reason="this processor lacks AVX-512")
def test_float_products_of_a_row_are_the_same_bits_in_tiles_of_all_sizes() -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((MOST_ROWS, INPUTS)).astype(np.float32)
    weights = random.standard_normal((INPUTS, PANEL)).astype(np.float32)
    whole = np.zeros((MOST_ROWS, PANEL), np.float32)
    float_tile(rows, weights, whole)
    np.testing.assert_allclose(whole, rows.astype(np.float64) @ weights, rtol=1e-4, atol=1e-5)
    for count in range(1, MOST_ROWS):
        part = np.zeros((count, PANEL), np.float32)
        float_tile(rows[-count:].copy(), weights, part)
        assert np.array_equal(part, whole[-count:])


@pytest.mark.skipif(not has_float_products(), reason="this processor lacks AVX-512")
@pytest.mark.parametrize("offset", [0.0, 10.0, -10.0])
def test_the_range_of_a_row_has_zero_in_it(offset: float) -> None:
    row = np.random.default_rng(2).uniform(-1, 1, 96).astype(np.float32) + np.float32(offset)
    assert extremes(row) == (min(0.0, row.min()), max(0.0, row.max()))
