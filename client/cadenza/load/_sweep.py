"""Looks for the highest rate that meets the objectives."""

import dataclasses
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from cadenza.load._measure import Measured
from cadenza.load._objectives import Objectives

MeasureAt = Callable[[float], Awaitable[Measured]]
"""Measures a load of so many requests a second."""
MAX_RUNS: Final = 24


@dataclasses.dataclass(frozen=True, slots=True)
class Criterion:
    """When a rate is met: each objective at this percentile, and no more failures than the rest."""

    objectives: Objectives
    percentile: float = 99.0

    def met_by(self, run: Measured) -> bool:
        """An invalid run meets nothing: nobody knows."""
        summary = run.summary
        failed = sum(summary.errors.values())
        return (
            not run.invalid
            and summary.requests > 0
            and failed <= (1 - self.percentile / 100) * (summary.requests + failed)
            and all(
                bound is None or found is None or found.at(self.percentile) <= bound
                for found, bound in (
                    (summary.ttft, self.objectives.ttft),
                    (summary.tpot, self.objectives.tpot),
                    (summary.latency, self.objectives.latency),
                )
            )
        )

    def __str__(self) -> str:
        return f"{self.objectives} at p{self.percentile:g}, at most {100 - self.percentile:g} % failed"


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """All runs, by rate, and the highest rate that met the criterion."""

    criterion: Criterion
    runs: tuple[Measured, ...]
    best: float | None
    """None where no rate did."""


async def search(
    measure_at: MeasureAt, low: float, high: float, criterion: Criterion, tolerance: float = 0.05
) -> Sweep:
    """Doubles the rate from `low` until it is not met or is `high`, then halves the gap (geometrically).

    Ends where the lowest rate not met is within `tolerance` of the highest one met; after MAX_RUNS at the
    latest.
    """
    runs: list[Measured] = []
    met, missed = 0.0, math.inf
    rate = low
    while len(runs) < MAX_RUNS:
        runs.append(await measure_at(rate))
        if criterion.met_by(runs[-1]):
            met = rate
        else:
            missed = rate
        if met == 0 or met >= high or missed <= met * (1 + tolerance):
            break
        rate = min(2 * met, high) if missed == math.inf else math.sqrt(met * missed)
    return _sweep(criterion, runs)


async def visit(measure_at: MeasureAt, rates: Sequence[float], criterion: Criterion) -> Sweep:
    """Measures these rates."""
    return _sweep(criterion, [await measure_at(rate) for rate in rates])


def _sweep(criterion: Criterion, runs: Sequence[Measured]) -> Sweep:
    ordered = tuple(sorted(runs, key=lambda run: run.rate or 0.0))
    met = [run.rate for run in ordered if run.rate is not None and criterion.met_by(run)]
    return Sweep(criterion, ordered, max(met, default=None))
