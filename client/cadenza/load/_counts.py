"""What a load shows of itself while it runs."""

import ctypes
import multiprocessing
from collections.abc import MutableSequence
from typing import Final, cast

SENT, FINISHED, FAILED, TOKENS = range(4)
"""Slots of `Slots`: requests sent, succeeded and failed, and tokens that have come."""
Slots = MutableSequence[int]
_SLOTS: Final = 4


class LiveCounts:
    """Counts that every process of a load writes in slots of its own, so that there is no lock."""

    def __init__(self, processes: int = 1) -> None:
        if processes == 1:
            self.slots: list[Slots] = [[0] * _SLOTS]
        else:
            context = multiprocessing.get_context("spawn")
            arrays = [context.RawArray(ctypes.c_int64, _SLOTS) for _ in range(processes)]
            self.slots = cast("list[Slots]", arrays)

    def total(self, slot: int) -> int:
        """Over all processes."""
        return sum(own[slot] for own in self.slots)

    @property
    def running(self) -> int:
        """Requests that were sent and have not ended."""
        return self.total(SENT) - self.total(FINISHED) - self.total(FAILED)
