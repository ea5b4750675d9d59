"""What calls leave in the log, and how much of it where many are refused or slow."""

from typing import Any

import pytest
import structlog

from cadenza.server.account import Account
from cadenza.server.engine.request import Admitted, Finished, FinishReason, Progress, Request, Timing
from cadenza.server.rpc.call import Call, Door
from cadenza.server.rpc.call_log import CallLog

DOOR = Door("CreateCompletion", "CreateCompletion")


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("reason", ["DEADLINE_UNREACHABLE", "QUEUE_FULL", "TOKEN_INVALID"])
def test_refusals_are_counted_beyond_ten_lines_a_second(reason: str) -> None:
    clock = _Clock()
    lines = _refusals(clock, 150, reason=reason)
    assert [line["event"] for line in lines] == ["call"] * 11 + ["refusals_not_logged", "call"]
    assert sum(line.get("reason") == reason for line in lines) == 10
    assert lines[-2]["calls"] == 140


def test_other_errors_are_all_logged() -> None:
    lines = _refusals(_Clock(), 150, reason="FIELD_OUT_OF_RANGE")
    assert [line["event"] for line in lines] == ["call"] * 152


def test_a_request_slower_than_the_threshold_leaves_a_line_whose_phases_add_up() -> None:
    clock = _Clock()
    log = CallLog(clock, slow_seconds=6.0)
    quick = _answered(Timing(arrival=100, first_step=101, first_token=103, last_token=106))
    slow = _answered(Timing(arrival=100, first_step=101, first_token=103, last_token=106.5))
    slow.preemptions = 2
    clock.now = 120.0
    with structlog.testing.capture_logs() as lines:
        log.ended(_call(quick))
        log.ended(_call(slow))
    (line,) = [line for line in lines if line["event"] == "slow_request"]
    assert line == {
        "event": "slow_request", "log_level": "warning", "method": "CreateCompletion", "code": "OK",
        "model": "m", "seconds": 6.5, "queue": 1.0, "prefill": 2.0, "decode": 3.5, "stage": "decode",
        "finished": True, "prompt_tokens": 3, "cached_prompt_tokens": 2, "completion_tokens": 1,
        "preemptions": 2, "requests": 1,
    }  # fmt: skip


def test_of_a_call_with_several_requests_the_slowest_is_told() -> None:
    clock = _Clock()
    log = CallLog(clock, slow_seconds=6.0)
    waiting = Account(_REQUEST)
    quick = _answered(Timing(arrival=100, first_step=100, first_token=101, last_token=102))
    clock.now = 110.0
    with structlog.testing.capture_logs() as lines:
        log.ended(_call(quick, waiting))
    assert lines[1]["stage"] == "queue"
    assert (lines[1]["seconds"], lines[1]["queue"], lines[1]["finished"]) == (10.0, 10.0, False)
    assert "prefill" not in lines[1]
    assert lines[1]["requests"] == 2


def test_no_request_is_slow_where_the_threshold_is_0() -> None:
    clock = _Clock()
    clock.now = 1e6
    with structlog.testing.capture_logs() as lines:
        CallLog(clock, slow_seconds=0).ended(_call(Account(_REQUEST)))
    assert [line["event"] for line in lines] == ["call"]


def test_slow_requests_are_counted_beyond_ten_lines_a_second() -> None:
    clock = _Clock()
    log = CallLog(clock, slow_seconds=1.0)
    with structlog.testing.capture_logs() as lines:
        clock.now = 110.0
        for _ in range(25):
            log.ended(_call(Account(_REQUEST)))
        clock.now = 111.0
        log.ended(_call())
    assert sum(line["event"] == "slow_request" for line in lines) == 10
    assert [line["calls"] for line in lines if line["event"] == "slow_requests_not_logged"] == [15]


_REQUEST = Request("id", (1, 2, 3), 9, arrival_time=100.0)


def _answered(timing: Timing) -> Account:
    """A request of three prompt tokens, two of them cached, that was answered with one token."""
    account = Account(_REQUEST)
    account.admit(Admitted("key", timing.first_step, cached_prompt_tokens=2))
    account.advance(Progress("key", 0, (4,), "x", finish_reason=FinishReason.LENGTH), timing.first_token)
    account.finish(Finished("key", 3, 2, 1, timing))
    return account


def _call(*accounts: Account) -> Call:
    return Call("a", 100.0, "OK", {"model": "m"}, door=DOOR, accounts=list(accounts))


def _refusals(clock: _Clock, count: int, reason: str) -> list[Any]:
    """The lines of so many refused calls and one that finished in a second, and one in the next."""
    log = CallLog(clock)
    with structlog.testing.capture_logs() as lines:
        for number in range(count):
            log.ended(Call(f"r{number}", clock.now, log={"reason": reason}, door=DOOR))
        log.ended(_call())
        clock.now += 1.0
        log.ended(_call())
    return list(lines)
