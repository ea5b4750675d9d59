"""Work on single rows between matrix products, as Numba kernels: norms, activations, quantisation.

Each function computes one row alone and in one way, so a row's bits do not depend on the rest of the batch.
"""

import numpy as np
from numba import njit

from cadenza.server.runner.cpu.mathematics import exp32
from cadenza.server.runner.native.tiles import value_range

_F = np.float32
_FAST = {"reassoc", "contract", "nsz"}
SILU, GELU, GELU_TANH = range(3)


@njit(fastmath=_FAST, error_model="numpy")
def normalise(row, n, gain, bias, epsilon, centred, out):
    """RMSNorm (arXiv:1910.07467), or LayerNorm (arXiv:1607.06450) where `centred`, of the first n numbers.

    All arrays are float32; `out` may be `row`.
    """
    mean = _F(0.0)
    if centred:
        for i in range(n):
            mean += row[i]
        mean /= _F(n)
    squares = _F(0.0)
    for i in range(n):
        squares += (row[i] - mean) * (row[i] - mean)
    factor = _F(1.0) / np.sqrt(squares / _F(n) + epsilon)
    for i in range(n):
        out[i] = (row[i] - mean) * factor * gain[i] + bias[i]


@njit(error_model="numpy")
def quantise(row, out):
    """Writes the row as int8 and returns what undoes it: x is about scale * (out - zero). Also sum(out).

    As XNNPACK quantises rows: the range from least to greatest, zero among it, on -128 to 127. The row has a
    multiple of 16 numbers.
    """
    low, high = value_range(row.ctypes.data, np.int64(row.shape[0]))
    if low == high:
        return _quantise_with(row, _F(1.0), _F(0.0), out), _F(1.0), np.int32(0)
    scale = (high - low) / _F(255.0)
    zero = np.rint(_F(-128.0) - low / scale)
    zero = min(max(zero, _F(-128.0)), _F(127.0))
    return _quantise_with(row, _F(1.0) / scale, zero, out), scale, np.int32(zero)


@njit(error_model="numpy")
def _quantise_with(row, factor, zero, out):
    total = np.int32(0)
    for i in range(row.shape[0]):
        level = np.int32(min(max(np.rint(row[i] * factor) + zero, _F(-128.0)), _F(127.0)))
        out[i] = level
        total += level
    return total


@njit(error_model="numpy")
def activate(row, kind):
    """SiLU, or GELU (arXiv:1606.08415) as it is or by tanh, of each number in place."""
    if kind == SILU:
        for i in range(row.shape[0]):
            row[i] *= _sigmoid(row[i])
    elif kind == GELU_TANH:
        for i in range(row.shape[0]):
            x = row[i]
            row[i] = x * _sigmoid(_F(1.5957691216) * (x + _F(0.044715) * x * x * x))
    else:
        for i in range(row.shape[0]):
            row[i] = _F(0.5) * row[i] * (_F(1.0) + _erf(row[i] * _F(0.7071067812)))


@njit(error_model="numpy", inline="always")
def _sigmoid(x):
    e = exp32(-abs(x))
    return (_F(1.0) if x >= _F(0.0) else e) / (_F(1.0) + e)


@njit(error_model="numpy", inline="always")
def _erf(x):
    """Abramowitz and Stegun 7.1.26: within 1.5e-7."""
    t = _F(1.0) / (_F(1.0) + _F(0.3275911) * abs(x))
    poly = _F(1.061405429) * t - _F(1.453152027)
    poly = poly * t + _F(1.421413741)
    poly = poly * t - _F(0.284496736)
    poly = (poly * t + _F(0.254829592)) * t
    y = _F(1.0) - poly * exp32(-x * x)
    return y if x >= _F(0.0) else -y
