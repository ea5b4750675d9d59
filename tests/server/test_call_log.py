"""What calls leave in the log, and how much of it where many are refused."""

from typing import Any

import pytest
import structlog

from cadenza.server.rpc.call import Call
from cadenza.server.rpc.call_log import CallLog


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("reason", ["DEADLINE_UNREACHABLE", "QUEUE_FULL", "TOKEN_INVALID"])
def test_refusals_are_counted_beyond_ten_lines_a_second(reason: str) -> None:
    clock = _Clock()
    lines = _lines(clock, refusals=150, reason=reason)
    assert [line["event"] for line in lines] == ["call"] * 11 + ["refusals_not_logged", "call"]
    assert sum(line.get("reason") == reason for line in lines) == 10
    assert lines[-2]["calls"] == 140


def test_other_errors_are_all_logged() -> None:
    lines = _lines(_Clock(), refusals=150, reason="FIELD_OUT_OF_RANGE")
    assert [line["event"] for line in lines] == ["call"] * 152


def _lines(clock: _Clock, refusals: int, reason: str) -> list[Any]:
    """Of so many refused calls and one that finished in a second, and one in the next."""
    log = CallLog(clock)
    with structlog.testing.capture_logs() as lines:
        for number in range(refusals):
            log.ended("CreateCompletion", Call(f"r{number}", clock.now, log={"reason": reason}))
        log.ended("CreateCompletion", Call("a", clock.now, "OK", {"model": "m"}))
        clock.now += 1.0
        log.ended("CreateCompletion", Call("b", clock.now, "OK", {"model": "m"}))
    return list(lines)
