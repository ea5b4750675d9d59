"""Fits that benchmarks share: terms of a sum, and the exponent of growth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fit_terms(features: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K] The coefficients of features [N, K] that come closest to values [N], which are positive.

    Least squares of the relative error: a short step counts as much as a long one.
    """
    solution, *_ = np.linalg.lstsq(features / values[:, None], np.ones(len(values)), rcond=None)
    return np.asarray(solution)


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The p of y = c * x**p, by least squares of log y on log x."""
    slope, _ = np.polyfit(np.log(xs), np.log(ys), 1)
    return float(slope)
