"""Lanes as threads: how they are woken and waited for, and the C functions that kernels call."""

import ctypes
import itertools

import numpy as np

from cadenza.server.runner.cpu.memory import DONE, GO, Functions

_PR_SET_TIMERSLACK = 29


def posix_functions(run_address: int = 0) -> Functions:
    """The C functions that the kernels call; `run_address` is that of LiteRT's run."""
    libc = ctypes.CDLL(None)

    def address(name: str) -> int:
        return ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0

    return Functions(
        run=run_address,
        sem_post=address("sem_post"),
        sem_wait=address("sem_wait"),
        clock_gettime=address("clock_gettime"),
        usleep=address("usleep"),
    )


def sleep_exactly() -> None:
    """Lets this thread's pauses end when they should: by default the system adds 50 us to each."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


class Semaphores:
    """GO and DONE of each lane, as POSIX semaphores that kernels wait on."""

    def __init__(self, lanes: int) -> None:
        self._libc = ctypes.CDLL(None)
        self._memory = np.zeros((lanes, 2, 4), np.int64)  # sem_t is at most 32 bytes on Linux
        start, lane, which = self._memory.ctypes.data, *self._memory.strides[:2]
        self.addresses = start + lane * np.arange(lanes)[:, None] + which * np.arange(2)
        self._pointers = [[ctypes.c_void_p(address) for address in pair] for pair in self.addresses.tolist()]
        for pointer in itertools.chain.from_iterable(self._pointers):
            self._libc.sem_init(pointer, 0, 0)

    def go(self, lane: int) -> None:
        """Wakes a lane."""
        self._libc.sem_post(self._pointers[lane][GO])

    def wait_done(self, lane: int) -> None:
        """Waits for a lane, without Python's lock."""
        while self._libc.sem_wait(self._pointers[lane][DONE]):
            pass
