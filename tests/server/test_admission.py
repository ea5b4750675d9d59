"""The queue before the engine and the measured pace, by hand-computed figures."""

import math
from typing import Any

import pytest
from tests.server.scripted_runner import LIMITS

from cadenza.server.admission import AdmissionQueue, Arrival, Place, QueueLimits
from cadenza.server.engine.request import StepKind, StepReport
from cadenza.server.errors import QueueFullError
from cadenza.server.pace import Ahead, Pace, Work


def _arrival(size: int = 1, client: str = "", priority: int = 0) -> Arrival:
    return Arrival("id", time=0, deadline=math.inf, size=size, client=client, priority=priority)


def _waiting(queue: AdmissionQueue, prompt_tokens: int, arrival: Arrival) -> Place:
    place = queue.enter(arrival, now=0)
    queue.fill(place, prompt_tokens, now=0)
    return place


def _step(tokens: int, seconds: float, **changes: Any) -> StepReport:
    fields: dict[str, Any] = {
        "events": (), "duration": seconds, "batch_tokens": tokens, "batch_sequences": 1,
        "kind": StepKind.PREFILL, "running": 0, "waiting": 0, "preemptions": 0,
        "prompt_tokens_looked_up": 0, "prompt_tokens_cached": 0, "kv_blocks_used": 0, "kv_blocks_total": 1,
    }  # fmt: skip
    return StepReport(**{**fields, **changes})


@pytest.mark.parametrize(
    ("limits", "arrival", "prompt_tokens", "what"),
    [
        (QueueLimits(2, 100, 100), _arrival(), 1, "2 requests"),
        (QueueLimits(9, 21, 100), _arrival(), 2, "22 prompt tokens"),
        (QueueLimits(9, 20, 100), _arrival(), 1, "20 prompt tokens wait already"),
        (QueueLimits(9, 100, 20), _arrival(size=11), 1, "21 bytes"),
    ],
)
def test_each_bound_refuses_what_would_exceed_it_and_takes_it_after_a_leave(
    limits: QueueLimits, arrival: Arrival, prompt_tokens: int, what: str
) -> None:
    queue = AdmissionQueue(limits)
    first = _waiting(queue, 10, _arrival(size=5))
    _waiting(queue, 10, _arrival(size=5))
    with pytest.raises(QueueFullError, match=what):
        queue.fill(queue.enter(arrival, now=0), prompt_tokens, now=0)
    for _ in range(2):
        queue.leave(first)
    queue.fill(queue.enter(arrival, now=0), prompt_tokens, now=0)


def test_a_place_is_taken_while_its_prompt_is_still_being_read() -> None:
    queue = AdmissionQueue(QueueLimits(1, 100, 100))
    place = queue.enter(_arrival(), now=0)
    with pytest.raises(QueueFullError):
        queue.enter(_arrival(), now=0)
    queue.leave(place)
    assert len(queue) == 0


def test_retry_is_half_of_what_waits_at_the_pace_of_recent_ends() -> None:
    queue = AdmissionQueue(QueueLimits(8, 100, 100))
    for _ in range(8):
        queue.enter(_arrival(), now=0)
    for end in range(4):
        queue.ended(float(end))
    with pytest.raises(QueueFullError) as raised:
        queue.enter(_arrival(), now=4.0)
    assert raised.value.retry_after == 4.0, "one end a second, and four of eight to begin"


def test_only_what_goes_first_or_shares_the_time_is_ahead() -> None:
    queue, mine = AdmissionQueue(QueueLimits(99, 9999, 9999)), _arrival(client="me")
    _waiting(queue, 1000, _arrival(client="me", priority=-1))
    assert queue.ahead(mine, 10, {}) == Ahead(0, 0)
    _waiting(queue, 100, _arrival(client="other", priority=5))
    assert queue.ahead(mine, 10, {}) == Ahead(1, 100)
    _waiting(queue, 20, mine)
    assert queue.ahead(mine, 10, {}) == Ahead(2, 120)
    for _ in range(5):
        _waiting(queue, 100, _arrival(client="greedy"))
    assert queue.ahead(mine, 10, {}) == Ahead(2 + 2, 120 + 30)
    assert queue.ahead(mine, 10, {"greedy": 2}) == Ahead(2 + 4, 120 + 60)
    assert queue.ahead(mine, 10, {"me": 4}) == Ahead(2 + 0.5, 120 + 7.5)


def _pace() -> Pace:
    return Pace(LIMITS)


def _seconds(pace: Pace, work: Work, ahead: Ahead, now: float, each: float = 0.0) -> float:
    """Where what runs began one by one, as far apart as its ends are."""
    slots = LIMITS.max_sequences
    return pace.seconds(work, ahead, now, [now - each * (slots - 1 - index) for index in range(slots)])


def test_nothing_measured_takes_no_time() -> None:
    assert _seconds(_pace(), Work(prompt_tokens=10_000, sure_tokens=500), Ahead(100, 10_000), now=0) == 0


def test_prompts_take_full_steps_and_what_is_left_a_smaller_one() -> None:
    pace = _pace()
    pace.learn(_step(64, 0.5), ended=0, now=0)
    assert _seconds(pace, Work(600), Ahead(1, 40), now=0) == 10 * 0.5
    assert _seconds(pace, Work(650), Ahead(), now=0) == 10 * 0.5, "no step so small is known"
    pace.learn(_step(8, 0.1), ended=0, now=0)
    assert _seconds(pace, Work(650), Ahead(), now=0) == pytest.approx(10 * 0.5 + 0.1)
    assert _seconds(pace, Work(7), Ahead(), now=0) == 0, "smaller than any known step"


def test_sure_tokens_take_a_step_each_as_slow_as_those_of_so_many_sequences() -> None:
    pace = _pace()
    pace.learn(_step(1, 0.01), ended=0, now=0)
    assert _seconds(pace, Work(1, sure_tokens=11), Ahead(), now=0) == pytest.approx(0.11)
    pace.learn(_step(60, 0.05, batch_sequences=2, running=1), ended=0, now=0)
    assert _seconds(pace, Work(1, sure_tokens=11), Ahead(), now=0) == pytest.approx(0.01 + 0.5)


def test_sure_tokens_that_drafts_bring_take_their_share_of_a_step() -> None:
    pace = _pace()
    pace.learn(
        _step(6, 0.1, batch_sequences=2, running=1, draft_tokens=4, draft_tokens_accepted=2), ended=0, now=0
    )
    # Two sequences have got four tokens.
    assert pace.token_seconds(1, now=0) == pytest.approx(0.1 / 2)
    pace.learn(_step(2, 0.1, batch_sequences=2, running=1), ended=0, now=0)
    assert pace.token_seconds(1, now=0) == pytest.approx(0.1 / 1.5)
    assert pace.quick_token_seconds(now=0) == pytest.approx(0.1 / 1.5)
    for _ in range(100):
        pace.learn(_step(2, 0.1, batch_sequences=2, running=1), ended=0, now=0)
    assert pace.token_seconds(1, now=0) == 0.1, "it is too long ago"


def test_one_slow_step_among_many_does_not_count_and_old_ones_are_forgotten() -> None:
    pace = _pace()
    for index in range(9):
        pace.learn(_step(64, 100.0 if index == 4 else 0.5), ended=0, now=0)
    assert _seconds(pace, Work(64), Ahead(), now=60) == 0.5
    assert _seconds(pace, Work(64), Ahead(), now=60.1) == 0


def test_quick_steps_are_those_of_the_lower_quartile() -> None:
    pace = _pace()
    assert pace.quick_token_seconds(now=0) == 0
    for seconds in (0.3, 0.1, 0.4, 0.2):
        pace.learn(_step(1, seconds), ended=0, now=0)
    assert pace.quick_token_seconds(now=60) == 0.2
    assert pace.token_seconds(1, now=60) == 0.25
    assert pace.quick_token_seconds(now=60.1) == 0


def test_prompt_tokens_found_in_the_prefix_cache_of_late_take_no_time() -> None:
    pace = _pace()
    pace.learn(_step(64, 0.5, prompt_tokens_looked_up=1000, prompt_tokens_cached=900), ended=0, now=0)
    assert _seconds(pace, Work(6400), Ahead(), now=0) == pytest.approx(10 * 0.5)


def test_where_all_slots_are_taken_each_takes_the_mean_time_of_an_end_and_some_to_spare() -> None:
    pace = _pace()
    full = LIMITS.max_sequences
    pace.learn(_step(0, 0, running=full), ended=3, now=10)
    assert _seconds(pace, Work(1), Ahead(5), now=10) == 0, "no time has passed with all slots taken"
    pace.learn(_step(0, 0, running=full), ended=0, now=18)
    pace.learn(_step(0, 0, running=full - 1), ended=4, now=20)
    pace.learn(_step(0, 0, running=full), ended=1, now=50)
    # From 10 to 20 all slots were taken, and 4 sequences ended: 2.5 s each. From 20 to 50 one was free.
    assert _seconds(pace, Work(1), Ahead(), now=50, each=2.5) == pytest.approx(1.15 * 2.5)
    assert _seconds(pace, Work(1), Ahead(requests=3), now=50, each=2.5) == pytest.approx(1.15 * 4 * 2.5)
    assert _seconds(pace, Work(1, needs_free_slot=False), Ahead(requests=3), now=50) == 0
    assert _seconds(pace, Work(1), Ahead(), now=81) == 0, "it is too long ago"
    pace.learn(_step(0, 0, running=full - 2), ended=0, now=50)
    assert _seconds(pace, Work(1), Ahead(requests=1), now=50) == 0, "there are slots"


def test_slots_are_taken_too_where_one_is_free_and_others_wait_for_it() -> None:
    pace = _pace()
    pace.learn(_step(0, 0, running=LIMITS.max_sequences - 1, waiting=1), ended=1, now=10)
    pace.learn(_step(0, 0, running=LIMITS.max_sequences), ended=1, now=12)
    assert _seconds(pace, Work(1), Ahead(), now=12, each=2.0) == pytest.approx(1.15 * 2)


def test_what_began_together_frees_its_slots_together() -> None:
    pace, full = _pace(), LIMITS.max_sequences
    pace.learn(_step(0, 0, running=full), ended=0, now=10)
    pace.learn(_step(0, 0, running=full), ended=5, now=20)  # 2 s each: a slot is taken for 2 s x full
    taken = 2.0 * full
    begun = [19.0] * full
    first = pace.seconds(Work(1), Ahead(), now=20, begun=begun)
    assert first == pytest.approx(1.15 * (taken - 1))
    assert pace.seconds(Work(1), Ahead(requests=full - 2), now=20, begun=begun) == pytest.approx(first)
    assert pace.seconds(Work(1), Ahead(requests=full), now=20, begun=begun) == pytest.approx(
        1.15 * (2 * taken - 1)
    )
    spread = [20.0 - taken + 2.0 * (index + 1) for index in range(full)]
    assert pace.seconds(Work(1), Ahead(requests=full), now=20, begun=[]) == pytest.approx(1.15 * 2 * taken)
    assert pace.seconds(Work(1), Ahead(requests=1), now=20, begun=spread) == pytest.approx(1.15 * 2 * 2)


def test_where_sequences_fill_the_kv_cache_no_more_than_run_have_slots() -> None:
    pace = _pace()
    pace.learn(_step(0, 0, running=2, waiting=1, kv_blocks_used=95, kv_blocks_total=100), ended=0, now=10)
    pace.learn(_step(0, 0, running=2, waiting=1, kv_blocks_used=95, kv_blocks_total=100), ended=2, now=20)
    assert _seconds(pace, Work(1), Ahead(requests=1), now=20, each=5.0) == pytest.approx(1.15 * 2 * 5)
    pace.learn(_step(0, 0, running=2, waiting=1, kv_blocks_used=50, kv_blocks_total=100), ended=0, now=20)
    assert _seconds(pace, Work(1), Ahead(requests=1), now=20) == 0, "there are blocks"


def test_beside_streams_prompts_take_as_long_as_they_did_while_others_waited() -> None:
    pace = _pace()
    pace.learn(_step(0, 0, running=1, waiting=1), ended=0, now=10)
    pace.learn(_step(10, 0.5, batch_sequences=2, draft_tokens=2, running=1), ended=0, now=13)
    pace.learn(_step(8, 0.5, batch_sequences=2, running=1), ended=0, now=23)
    # The step to 13, with one waiting, had 6 prompt tokens: 0.5 s each. In the next one nothing waited.
    assert _seconds(pace, Work(40), Ahead(0, 60), now=23) == pytest.approx(100 * 0.5)
    pace.learn(_step(0, 0, running=0), ended=1, now=23)
    assert _seconds(pace, Work(4), Ahead(), now=23) == 0, "no stream runs, and no step so small is known"
