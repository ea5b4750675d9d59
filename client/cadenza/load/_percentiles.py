"""Percentiles of a sample."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclasses.dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of a sample, interpolated linearly between its sorted values.

    The p-th lies at position (n - 1) * p / 100 of n values, counted from 0: NumPy's "linear" method.
    """

    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    """The 99.9th. Of fewer than 1,000 values it says little more than their maximum."""
    mean: float
    count: int
    """Values in the sample."""

    def at(self, percentile: float) -> float:
        """The value at one of PERCENTILES. Raises ValueError at another."""
        values = (self.p50, self.p90, self.p95, self.p99, self.p999)
        return values[PERCENTILES.index(percentile)]


def percentiles(values: Iterable[float]) -> Percentiles | None:
    """The percentiles of a sample; None of an empty one."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p90, p95, p99, p999 = [quantile(ordered, percentile / 100) for percentile in PERCENTILES]
    return Percentiles(p50, p90, p95, p99, p999, mean=statistics.fmean(ordered), count=len(ordered))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of a sorted, non-empty sample lies; linear in between."""
    position = (len(ordered) - 1) * share
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
