"""When a failed call is tried again, and after how long. The clients bring the call and the sleep.

UNAVAILABLE is retried always, RESOURCE_EXHAUSTED where the server said when (RetryInfo); nothing else, and
nothing after the first message of a stream. All tries share the call's timeout.
"""

import random
import time
from typing import Any, Final

import grpc

from cadenza.client._requests import PreparedCall
from cadenza.client._status import error_from_rpc
from cadenza.client.errors import CadenzaError, ResourceExhausted, Unavailable

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds, unless the server asks for more."""


class Attempts:
    """The tries of one call, the first of which begins now."""

    def __init__(self, call: PreparedCall[Any]) -> None:
        self._call = call
        self._begin = time.monotonic()
        self._failed = 0

    def timeout(self) -> float | None:
        """Seconds for a try that begins now; None where the call may take for ever."""
        if self._call.timeout is None:
            return None
        return self._call.timeout - (time.monotonic() - self._begin)

    def pause_after(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next try. Raises the call's CadenzaError where there is none."""
        mapped = error_from_rpc(error, self._call)
        self._failed += 1
        pause = self._pause(mapped)
        left = self.timeout()
        if (
            self._failed > self._call.max_retries
            or not _may_help(mapped)
            or (left is not None and pause >= left)
        ):
            raise mapped from error
        return pause

    def _pause(self, error: CadenzaError) -> float:
        """Doubles from try to try. Half is random, so that callers who failed together come back apart."""
        most = min(_FIRST_PAUSE * 2.0 ** (self._failed - 1), _LONGEST_PAUSE)
        return (error.retry_after or 0.0) + most * random.uniform(0.5, 1)  # noqa: S311


def _may_help(error: CadenzaError) -> bool:
    if isinstance(error, Unavailable):
        return True
    return isinstance(error, ResourceExhausted) and error.retry_after is not None
