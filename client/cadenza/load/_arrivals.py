"""When requests arrive in an open loop: renewal processes, their rate constant or a ramp; or a trace.

A renewal process of rate 1 is drawn, and its times are mapped through the inverse of the rate's integral.
So it keeps its kind under a ramp: a Poisson process becomes the inhomogeneous Poisson process of that rate
(Cox and Lewis, "The Statistical Analysis of Series of Events", 1966, section 2.3).
"""

import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Final, Protocol

EVEN: Final = math.inf
"""The shape of arrivals that are evenly spaced."""


class Arrivals(Protocol):
    """A schedule: the same on every call, so that several processes can share it out."""

    @property
    def seconds(self) -> float:
        """No request arrives at or after this time."""
        ...

    def times(self) -> Iterator[float]:
        """Seconds after the load's begin, ascending, below `seconds`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second: `begin` at first, `end` after `seconds`, linear between."""

    begin: float
    end: float
    seconds: float

    def __post_init__(self) -> None:
        if not (min(self.begin, self.end) >= 0 < max(self.begin, self.end) < math.inf):
            raise ValueError(f"the rate is {self.begin:g} to {self.end:g}; it must be above 0 and finite")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"the load lasts {self.seconds:g} s; it must be above 0 and finite")

    def count(self) -> float:
        """How many requests are expected in all."""
        return (self.begin + self.end) / 2 * self.seconds

    def time_of(self, count: float) -> float:
        """When `count` requests are expected to have arrived; infinite where so many are never reached.

        Solves begin * t + slope * t**2 / 2 = count for t, in the form that is stable for small slopes.
        """
        slope = (self.end - self.begin) / self.seconds
        discriminant = self.begin**2 + 2 * slope * count
        if discriminant < 0:
            return math.inf
        return 2 * count / (self.begin + math.sqrt(discriminant))


@dataclasses.dataclass(frozen=True, slots=True)
class Renewal:
    """Independent gaps of mean 1 / rate from a gamma distribution; the first arrival follows a gap too.

    Their coefficient of variation is 1 / sqrt(shape): shape 1 is a Poisson process, below 1 comes in
    bursts, EVEN is a constant rate.
    """

    rate: Rate
    shape: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shape > 0:
            raise ValueError(f"the burstiness is {self.shape:g}; it must be above 0, 1 for Poisson arrivals")

    @property
    def seconds(self) -> float:
        return self.rate.seconds

    def times(self) -> Iterator[float]:
        source = random.Random(self.seed)  # noqa: S311 - nothing secret
        passed = 0.0
        while True:
            passed += 1.0 if self.shape == EVEN else source.gammavariate(self.shape, 1 / self.shape)
            at = self.rate.time_of(passed)
            if not at < self.rate.seconds:
                return
            yield at


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """Arrivals at given times, seconds after the load's begin."""

    arrivals: tuple[float, ...]
    seconds: float

    def __post_init__(self) -> None:
        if any(
            not later >= earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)
        ):
            raise ValueError("the trace's arrivals do not ascend; sort it by time")

    def times(self) -> Iterator[float]:
        return iter([at for at in self.arrivals if at < self.seconds])
