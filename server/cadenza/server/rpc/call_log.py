"""The line that each call leaves in the log, bounded where a server has to refuse many calls."""

from collections.abc import Callable

import structlog

from cadenza.server.errors import Reason
from cadenza.server.rpc.call import Call

_log = structlog.get_logger(__name__)

_OVERLOAD = frozenset({Reason.QUEUE_FULL.value, Reason.DEADLINE_UNREACHABLE.value})
_MOST_REFUSALS = 10
"""Lines a second."""


class CallLog:
    """Writes the lines. `clock` gives seconds that never go back.

    Refusals under overload can come by the hundred a second, and writing costs the server about as much as
    refusing: beyond 10 lines a second they are counted, and one line says how many there were.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = 0
        self._refusals = 0
        """In this second."""

    def ended(self, method: str, call: Call) -> None:
        """Writes the line of a call that has ended, or counts it."""
        now = self._clock()
        if int(now) != self._second:
            self._next_second(int(now))
        if call.log.get("reason") in _OVERLOAD:
            self._refusals += 1
            if self._refusals > _MOST_REFUSALS:
                return
        log = _log.info if call.log else _log.debug
        log("call", method=method, code=call.code, seconds=round(now - call.arrival, 6), **call.log)

    def _next_second(self, second: int) -> None:
        if self._refusals > _MOST_REFUSALS:
            _log.warning("refusals_not_logged", calls=self._refusals - _MOST_REFUSALS)
        self._second, self._refusals = second, 0
