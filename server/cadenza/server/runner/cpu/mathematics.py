"""Scalar functions that LLVM can vectorise inside Numba kernels."""

import numpy as np
from numba import njit

from cadenza.server.runner.cpu.intrinsics import float_from_bits

_F = np.float32


@njit(inline="always")
def exp32(x):
    """e**x for float32 x <= 0 to about 1e-7 relative; x below -87 gives about 1e-38.

    Range reduction by multiples of ln 2 and a polynomial of degree 6, coefficients of Cephes' expf.
    """
    x = max(x, _F(-87.0))
    n = np.floor(x * _F(1.44269504) + _F(0.5))
    r = x - n * _F(0.693359375) - n * _F(-2.12194440e-4)
    y = _F(1.9875691500e-4)
    y = y * r + _F(1.3981999507e-3)
    y = y * r + _F(8.3334519073e-3)
    y = y * r + _F(4.1665795894e-2)
    y = y * r + _F(1.6666665459e-1)
    y = y * r + _F(5.0000001201e-1)
    y = y * r * r + r + _F(1.0)
    return y * float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
