"""The line that each call leaves in the log, bounded where a server has to refuse many calls."""

from collections.abc import Callable

import structlog

from cadenza.server.errors import Reason
from cadenza.server.rpc.call import Call

_log = structlog.get_logger(__name__)

_BOUNDED = frozenset(
    reason.value
    for reason in (
        Reason.QUEUE_FULL,
        Reason.DEADLINE_UNREACHABLE,
        Reason.TOKEN_MISSING,
        Reason.TOKEN_INVALID,
        Reason.METHOD_NOT_FOUND,
    )
)
_MOST_REFUSALS = 10
"""Lines a second."""


class CallLog:
    """Writes the lines. `clock` gives seconds that never go back.

    Refusals under overload, or of whoever may not call, can come by the hundred a second, and writing costs
    the server about as much as refusing: beyond 10 lines a second they are counted, and one line says how
    many there were.
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
        if call.log.get("reason") in _BOUNDED:
            self._refusals += 1
            if self._refusals > _MOST_REFUSALS:
                return
        log = _log.info if call.log else _log.debug
        log("call", method=method, code=call.code, seconds=round(now - call.arrival, 6), **call.log)

    def _next_second(self, second: int) -> None:
        if self._refusals > _MOST_REFUSALS:
            _log.warning("refusals_not_logged", calls=self._refusals - _MOST_REFUSALS)
        self._second, self._refusals = second, 0
