"""The lines that calls leave in the log, bounded where a server has to refuse many calls or all are slow."""

from collections.abc import Callable

import structlog

from cadenza.server.account import Account
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
_MOST_LINES = 10
"""A second, of each kind that is bounded."""


class CallLog:
    """Writes the lines. `clock` gives seconds that never go back.

    Refusals under overload, or of whoever may not call, can come by the hundred a second, and writing costs
    the server about as much as refusing: beyond 10 lines a second they are counted, and one line says how
    many there were. So are requests that took longer than `slow_seconds`, unless that is 0.
    """

    def __init__(self, clock: Callable[[], float], *, slow_seconds: float = 0.0) -> None:
        self._clock = clock
        self._slow_seconds = slow_seconds
        self._refusals = _Bounded("refusals_not_logged")
        self._slow = _Bounded("slow_requests_not_logged")

    def ended(self, call: Call) -> None:
        """Writes the lines of a call that has ended, or counts them."""
        now = self._clock()
        for bounded in (self._refusals, self._slow):
            bounded.turn_to(int(now))
        self._write_call(call, now)
        if self._slow_seconds and call.accounts:
            self._write_slow(call, now)

    def _write_call(self, call: Call, now: float) -> None:
        if call.log.get("reason") in _BOUNDED and not self._refusals.has_room():
            return
        log = _log.info if call.log else _log.debug
        seconds = round(now - call.arrival, 6)
        log("call", method=call.door.method, code=call.code, seconds=seconds, **call.log)

    def _write_slow(self, call: Call, now: float) -> None:
        """Says where the time of the call's slowest request went, if it is slow."""
        slowest = max(call.accounts, key=lambda account: account.seconds(now))
        if slowest.seconds(now) <= self._slow_seconds or not self._slow.has_room():
            return
        of_call = {key: call.log[key] for key in ("model", "version", "client", "reason") if key in call.log}
        _log.warning(
            "slow_request",
            method=call.door.method,
            code=call.code,
            **of_call,
            **_where_time_went(slowest, now),
            requests=len(call.accounts),
        )


class _Bounded:
    """Lines of which there may be `_MOST_LINES` in a second; `event` tells how many were left out."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._second = 0
        self._lines = 0
        """In this second, those left out too."""

    def turn_to(self, second: int) -> None:
        """Begins to count anew where another second has begun."""
        if second == self._second:
            return
        if self._lines > _MOST_LINES:
            _log.warning(self._event, calls=self._lines - _MOST_LINES)
        self._second, self._lines = second, 0

    def has_room(self) -> bool:
        """Counts a line; whether it may be written."""
        self._lines += 1
        return self._lines <= _MOST_LINES


def _where_time_went(account: Account, now: float) -> dict[str, object]:
    """Seconds by phase, which add up, and what was done in them."""
    phases = {phase.name: round(phase.seconds, 6) for phase in account.phases(now)}
    return {
        "seconds": round(account.seconds(now), 6),
        **phases,
        "stage": account.stage,
        "finished": account.finished,
        "prompt_tokens": len(account.request.prompt_token_ids),
        "cached_prompt_tokens": account.cached_prompt_tokens,
        "completion_tokens": account.completion_tokens,
        "preemptions": account.preemptions,
    }
