"""The time that a load runs on: 0 when the load begins."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the load began."""

    def now(self) -> float:
        """Negative before the load begins."""
        ...

    async def sleep_until(self, at: float) -> None:
        """Returns at that time; lets other tasks run at least once where it has passed."""
        ...


class MonotonicClock:
    """Seconds since `begin` on time.perf_counter, which all processes of a machine share."""

    def __init__(self, begin: float) -> None:
        self._begin = begin

    def now(self) -> float:
        return time.perf_counter() - self._begin

    async def sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.now()))
