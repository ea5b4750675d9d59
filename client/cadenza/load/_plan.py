"""What a load is: where it goes, what it asks, at what pace. Processes can share it."""

import dataclasses
import math
from typing import Final

from cadenza.client._settings import Settings
from cadenza.load._arrivals import Arrivals, Replay
from cadenza.load._summary import Window
from cadenza.load._workload import Workload

MAX_REQUESTS: Final = 1_000_000
MAX_IN_FLIGHT: Final = 10_000
MAX_LAG: Final = 0.020
"""Seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests are sent when they are due, whatever has become of those before."""

    arrivals: Arrivals


@dataclasses.dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many streams at all times, each beginning the next request when its last has ended.

    The load ends after `requests`, or when `seconds` have passed and what runs then has ended.
    """

    concurrency: int
    requests: int = MAX_REQUESTS
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; it must be at least 1")
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise ValueError(f"there are {self.requests} requests; give 1 to {MAX_REQUESTS:,}")


@dataclasses.dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load."""

    settings: Settings
    """The server, and what every call to it carries."""
    workload: Workload
    pace: OpenLoop | ClosedLoop
    warmup: float = 0.0
    """Seconds at the beginning that are not measured."""
    max_in_flight: int = MAX_IN_FLIGHT
    """An open loop does not send what would be more; it notes NOT_SENT, and the run is invalid."""

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise ValueError(f"max-in-flight is {self.max_in_flight}; it must be at least 1")

    def window(self) -> Window | None:
        """What is measured; None for all of a load whose length is not planned: a count, or a trace.

        Raises ValueError for a warm-up that does not fit.
        """
        seconds = self._planned_seconds()
        if not 0 <= self.warmup < (seconds or math.inf) or (seconds is None and self.warmup):
            of = "a load without a duration" if seconds is None else f"{seconds:g} s"
            raise ValueError(f"the warm-up is {self.warmup:g} s of {of}; it must be shorter than a duration")
        return None if seconds is None else Window(self.warmup, seconds)

    def _planned_seconds(self) -> float | None:
        if isinstance(self.pace, ClosedLoop):
            return self.pace.seconds
        return None if isinstance(self.pace.arrivals, Replay) else self.pace.arrivals.seconds
