"""The engine on a runner with tokens computed by hand: what goes in, what comes out, what is given back."""

import dataclasses
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.cache_runner import VOCABULARY, CacheRunner, continuation

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.request import (
    Cancel,
    Cancelled,
    Drain,
    Event,
    Finished,
    FinishReason,
    Progress,
    Request,
    StepReport,
    Submit,
)
from cadenza.server.runner.base import RunnerError, StepBatch, StepResult

TOKEN_BYTES = [f"{token},".encode() for token in range(VOCABULARY)]


class Harness:
    """An engine that is stepped by hand, with a clock that moves when told."""

    def __init__(self, runner: CacheRunner | None = None) -> None:
        self.runner = runner or CacheRunner()
        self.reports: list[StepReport] = []
        self.now = 0.0
        self.engine = Engine(self.runner, TOKEN_BYTES, clock=lambda: self.now, report=self.reports.append)

    def submit(self, name: str, prompt: Sequence[int], max_tokens: int = 5, **options: object) -> Request:
        request = Request(name, tuple(prompt), max_tokens, arrival_time=self.now)
        request = dataclasses.replace(request, **options)  # type: ignore[arg-type]
        self.engine.commands.put(Submit(request))
        return request

    def finish(self) -> None:
        self.engine.commands.put(Drain())
        self.engine.run()

    @property
    def events(self) -> list[Event]:
        return [event for report in self.reports for event in report.events]

    def tokens(self, name: str) -> list[int]:
        kinds = (Progress, Finished)
        events = [event for event in self.events if isinstance(event, kinds) and event.request_id == name]
        return [token_id for event in events for token_id in event.token_ids]

    def finished(self, name: str) -> Finished:
        (event,) = [e for e in self.events if isinstance(e, Finished) and e.request_id == name]
        return event


def test_a_request_gets_the_tokens_that_its_prompt_implies() -> None:
    harness = Harness()
    harness.submit("a", [1, 2, 3], max_tokens=6)
    harness.finish()
    assert harness.tokens("a") == continuation([1, 2, 3], 6)
    finished = harness.finished("a")
    assert finished.finish_reason is FinishReason.LENGTH
    assert (finished.prompt_tokens, finished.completion_tokens) == (3, 6)


def test_the_text_of_all_events_is_the_text_of_all_tokens() -> None:
    harness = Harness()
    harness.submit("a", [5], max_tokens=4)
    harness.finish()
    text = "".join(event.text for event in harness.events if isinstance(event, Progress | Finished))
    assert text == "".join(f"{token}," for token in continuation([5], 4))


def test_an_end_token_stops_and_has_no_text() -> None:
    expected = continuation([1, 2], 3)
    harness = Harness()
    harness.submit("a", [1, 2], max_tokens=9, eos_token_ids=frozenset({expected[2]}))
    harness.finish()
    assert harness.tokens("a") == expected
    assert harness.finished("a").finish_reason is FinishReason.STOP
    assert harness.finished("a").text == ""


def test_a_stop_token_of_the_request_is_told_apart() -> None:
    expected = continuation([1, 2], 2)
    harness = Harness()
    harness.submit("a", [1, 2], max_tokens=9, stop_token_ids=frozenset({expected[1]}))
    harness.finish()
    assert harness.finished("a").finish_reason is FinishReason.STOP_TOKEN


def test_a_stop_string_ends_the_text_before_it() -> None:
    first, second, *_ = continuation([1, 2], 2)
    harness = Harness()
    harness.submit("a", [1, 2], max_tokens=9, stop=(f",{second},",))
    harness.finish()
    text = "".join(event.text for event in harness.events if isinstance(event, Progress | Finished))
    assert text == str(first)
    assert harness.finished("a").finish_reason is FinishReason.STOP


def test_one_step_serves_many_requests() -> None:
    harness = Harness()
    for index in range(4):
        harness.submit(f"r{index}", [index + 1], max_tokens=3)
    harness.finish()
    assert max(report.batch_sequences for report in harness.reports) == 4
    for index in range(4):
        assert harness.tokens(f"r{index}") == continuation([index + 1], 3)


def test_a_cancelled_request_frees_its_blocks_before_the_next_step() -> None:
    harness = Harness()
    harness.submit("a", range(10), max_tokens=50)
    harness.engine.step()
    assert harness.reports[-1].kv_blocks_used > 0
    harness.engine.commands.put(Cancel("a"))
    harness.engine.step()
    assert harness.reports[-1].kv_blocks_used == 0
    assert harness.reports[-1].events == (Cancelled("a", deadline_exceeded=False),)


def test_a_request_past_its_deadline_ends_without_another_step() -> None:
    harness = Harness()
    harness.submit("a", [1], max_tokens=50, deadline=5.0)
    harness.engine.step()
    harness.now = 5.0
    steps = len(harness.runner.batches)
    harness.engine.step()
    assert len(harness.runner.batches) == steps
    assert harness.reports[-1].events == (Cancelled("a", deadline_exceeded=True),)


def test_cancelling_what_is_not_there_is_ignored() -> None:
    harness = Harness()
    harness.engine.commands.put(Cancel("nobody"))
    harness.submit("a", [1], max_tokens=2)
    harness.finish()
    assert harness.tokens("a") == continuation([1], 2)


def test_preempted_sequences_go_on_with_the_same_tokens() -> None:
    harness = Harness(CacheRunner(num_blocks=6, block_size=2, max_step_tokens=16))
    for name, prompt in (("a", [1, 2, 3]), ("b", [4, 5, 6]), ("c", [7, 8])):
        harness.submit(name, prompt, max_tokens=8)
    harness.finish()
    assert sum(report.preemptions for report in harness.reports) > 0
    assert harness.tokens("a") == continuation([1, 2, 3], 8)
    assert harness.tokens("b") == continuation([4, 5, 6], 8)
    assert harness.tokens("c") == continuation([7, 8], 8)
    assert harness.reports[-1].kv_blocks_used == 0


def test_timing_tells_queue_prefill_and_decode_apart() -> None:
    harness = Harness()
    harness.submit("a", [1, 2], max_tokens=2)
    harness.now = 1.0
    harness.engine.step()
    harness.now = 4.0
    harness.engine.step()
    timing = harness.finished("a").timing
    assert (timing.arrival, timing.first_step, timing.first_token, timing.last_token) == (0.0, 1.0, 1.0, 4.0)


def test_an_idle_engine_waits_for_commands_and_drains() -> None:
    harness = Harness()
    thread = threading.Thread(target=harness.engine.run)
    thread.start()
    harness.submit("a", [1], max_tokens=1)
    harness.engine.commands.put(Drain())
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert harness.tokens("a") == continuation([1], 1)


def test_what_the_runner_raises_ends_the_engine() -> None:
    class Broken(CacheRunner):
        def step(self, batch: StepBatch) -> StepResult:
            raise RunnerError("program 3 failed")

    harness = Harness(Broken())
    harness.submit("a", [1])
    with pytest.raises(RunnerError, match="program 3 failed"):
        harness.engine.run()


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request of a random schedule."""

    before_step: int
    prompt: tuple[int, ...]
    max_tokens: int
    cancel_after: int | None
    deadline: float


ARRIVALS = st.builds(
    Arrival,
    before_step=st.integers(0, 12),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=14).map(tuple),
    max_tokens=st.integers(1, 10),
    cancel_after=st.none() | st.integers(0, 12),
    deadline=st.just(float("inf")) | st.integers(1, 30).map(float),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ARRIVALS, min_size=1, max_size=10), st.integers(6, 20), st.integers(1, 4))
def test_every_request_ends_once_with_its_own_tokens_and_no_block_is_lost(
    arrivals: list[Arrival], num_blocks: int, block_size: int
) -> None:
    # Any one request fits alone: 14 + 10 tokens at most.
    num_blocks = max(num_blocks, -(-24 // block_size))
    harness = Harness(CacheRunner(num_blocks, block_size, max_step_tokens=9, max_sequences=4))
    steps = 0
    while steps < 14 or harness.engine._sequences:
        for index, arrival in enumerate(arrivals):
            if arrival.before_step == steps:
                harness.submit(str(index), arrival.prompt, arrival.max_tokens, deadline=arrival.deadline)
            if arrival.cancel_after is not None and arrival.before_step + arrival.cancel_after == steps:
                harness.engine.commands.put(Cancel(str(index)))
        harness.engine.commands.put(Cancel("nobody"))
        harness.now = float(steps)
        harness.engine.step()
        steps += 1
        assert steps < 500, "a sequence starves"
    for index, arrival in enumerate(arrivals):
        ends = [
            e for e in harness.events if isinstance(e, Finished | Cancelled) and e.request_id == str(index)
        ]
        assert len(ends) == 1
        expected = continuation(arrival.prompt, arrival.max_tokens)
        found = harness.tokens(str(index))
        assert found == (expected if isinstance(ends[0], Finished) else expected[: len(found)])
    assert harness.engine._kv_cache.num_used == 0
