"""What the machine can do: the ceiling that speeds are held against."""

import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

_BYTES = 512 << 20
_REPEATS = 7


@njit(nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _sum(values: NDArray[np.float32]) -> np.float32:
    total = np.float32(0.0)
    for index in range(values.shape[0]):
        total += values[index]
    return total


def read_bandwidth(threads: int) -> float:
    """Bytes per second that `threads` threads read together: the median of some passes over 512 MiB."""
    values = np.ones(_BYTES // 4, np.float32)
    parts = np.array_split(values, threads)
    _sum(parts[0][:16])
    return statistics.median(_BYTES / _seconds(lambda: _in_threads(parts)) for _ in range(_REPEATS))


def _in_threads(parts: list[NDArray[np.float32]]) -> None:
    workers = [threading.Thread(target=_sum, args=(part,)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
