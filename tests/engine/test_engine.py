"""The engine on a runner with tokens computed by hand: what goes in, what comes out, what is given back."""

import threading

import pytest
from tests.engine.cache_runner import CacheRunner, continuation, logprobs
from tests.engine.harness import Harness

from cadenza.server.engine.request import (
    GREEDY,
    Admitted,
    Cancel,
    Cancelled,
    Drain,
    Finished,
    FinishReason,
    SamplingParams,
)
from cadenza.server.runner.base import StepBatch, StepResult


def test_a_request_gets_the_tokens_that_its_prompt_implies() -> None:
    harness = Harness()
    harness.submit("a", [1, 2, 3], max_tokens=6)
    harness.finish()
    assert harness.tokens("a") == continuation([1, 2, 3], 6)
    assert harness.finish_reason("a") is FinishReason.LENGTH
    finished = harness.finished("a")
    assert (finished.prompt_tokens, finished.completion_tokens) == (3, 6)


def test_the_text_of_all_events_is_the_text_of_all_tokens() -> None:
    harness = Harness()
    harness.submit("a", [5], max_tokens=4)
    harness.finish()
    assert harness.text("a") == "".join(f"{token}," for token in continuation([5], 4))


def test_an_end_token_stops_and_has_no_text() -> None:
    expected = continuation([1, 2], 3)
    harness = Harness()
    harness.submit("a", [1, 2], max_tokens=9, eos_token_ids=frozenset({expected[2]}))
    harness.finish()
    assert harness.tokens("a") == expected
    assert harness.finish_reason("a") is FinishReason.STOP
    assert harness.progress("a")[-1].text == ""


def test_a_stop_token_of_the_request_is_told_apart() -> None:
    expected = continuation([1, 2], 2)
    harness = Harness()
    harness.submit("a", [1, 2], max_tokens=9, stop_token_ids=frozenset({expected[1]}))
    harness.finish()
    assert harness.finish_reason("a") is FinishReason.STOP_TOKEN


def test_a_stop_string_ends_the_text_before_it() -> None:
    first, second, *_ = continuation([1, 2], 2)
    harness = Harness()
    harness.submit("a", [1, 2], max_tokens=9, stop=(f",{second},",))
    harness.finish()
    assert harness.text("a") == str(first)
    assert harness.finish_reason("a") is FinishReason.STOP


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
    assert harness.blocks_used > 0
    harness.engine.commands.put(Cancel("a"))
    harness.engine.step()
    assert harness.blocks_used == 0
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
    assert harness.blocks_used == 0


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


def test_a_watchdog_sees_when_the_present_step_began() -> None:
    class Watched(CacheRunner):
        def step(self, batch: StepBatch) -> StepResult:
            seen.append(harness.engine.step_began)
            return super().step(batch)

    seen: list[float | None] = []
    harness = Harness(Watched())
    harness.submit("a", [1], max_tokens=2)
    harness.now = 7.0
    harness.engine.step()
    assert seen == [7.0]
    assert harness.engine.step_began is None


def test_choices_share_the_prompt_and_each_ends_once() -> None:
    harness = Harness()
    harness.submit("a", range(10), max_tokens=6, n=3)
    harness.finish()
    for choice in range(3):
        assert harness.tokens("a", choice) == continuation(range(10), 6, choice)
        assert harness.finish_reason("a", choice) is FinishReason.LENGTH
    finished = harness.finished("a")
    assert (finished.prompt_tokens, finished.completion_tokens) == (10, 18)
    assert isinstance(harness.events[-1], Finished)
    assert sum(isinstance(event, Admitted) for event in harness.events) == 1
    # The prompt once, its last token twice more, and five tokens of each choice fed back.
    assert harness.runner.computed_tokens == 10 + 2 + 3 * 5


def test_choices_hold_the_prompts_full_blocks_once() -> None:
    harness = Harness(CacheRunner(block_size=4))
    harness.submit("a", range(10), max_tokens=20, n=4)
    harness.engine.step()
    harness.engine.step()
    # Two full blocks together, and a third of each choice's own.
    assert harness.blocks_used == 2 + 4


@pytest.mark.parametrize("length", [1, 4, 5, 8])
def test_choices_fork_wherever_the_prompt_ends_in_its_block(length: int) -> None:
    prompt = range(3, 3 + length)
    harness = Harness(CacheRunner(block_size=4))
    harness.submit("a", prompt, max_tokens=9, n=3)
    harness.finish()
    for choice in range(3):
        assert harness.tokens("a", choice) == continuation(prompt, 9, choice)


def test_the_other_choices_go_on_when_the_first_ends_with_its_first_token() -> None:
    harness = Harness()
    (end,) = continuation([1, 2, 3], 1)
    harness.submit("a", [1, 2, 3], max_tokens=4, n=2, eos_token_ids=frozenset({end}))
    harness.finish()
    assert harness.tokens("a") == [end]
    assert harness.tokens("a", 1) == continuation([1, 2, 3], 4, choice=1)


def test_more_choices_than_places_take_turns() -> None:
    harness = Harness(CacheRunner(max_sequences=2))
    harness.submit("a", range(6), max_tokens=3, n=7)
    harness.finish()
    for choice in range(7):
        assert harness.tokens("a", choice) == continuation(range(6), 3, choice)


def test_choices_that_lose_their_shared_blocks_are_recomputed() -> None:
    harness = Harness(CacheRunner(num_blocks=7, block_size=2, max_sequences=2))
    harness.submit("a", range(5), max_tokens=9, n=3)
    harness.submit("b", range(20, 25), max_tokens=9)
    harness.finish()
    assert sum(report.preemptions for report in harness.reports) > 0
    for choice in range(3):
        assert harness.tokens("a", choice) == continuation(range(5), 9, choice)
    assert harness.tokens("b") == continuation(range(20, 25), 9)


def test_cancelling_ends_all_choices() -> None:
    harness = Harness()
    harness.submit("a", range(6), max_tokens=50, n=3)
    harness.engine.step()
    harness.engine.step()
    harness.engine.commands.put(Cancel("a"))
    harness.engine.step()
    assert harness.blocks_used == 0
    assert (harness.reports[-1].running, harness.reports[-1].waiting) == (0, 0)


def test_log_probabilities_come_with_their_tokens() -> None:
    prompt = list(range(6))
    harness = Harness()
    harness.submit("a", prompt, max_tokens=5, n=2, sampling=SamplingParams(logprobs=2))
    harness.finish()
    for choice in range(2):
        tokens = prompt + continuation(prompt, 5, choice)
        assert harness.logprobs("a", choice) == logprobs(tokens, 6, alternatives=2)
        assert all(len(event.logprobs) == len(event.token_ids) for event in harness.progress("a", choice))


def test_text_that_is_held_back_holds_no_log_probabilities_back() -> None:
    first, second = continuation([1, 2], 2)
    harness = Harness()
    harness.submit(
        "a", [1, 2], max_tokens=2, stop=(f"{first},{second},x",), sampling=SamplingParams(logprobs=0)
    )
    harness.finish()
    assert [(event.text, len(event.logprobs)) for event in harness.progress("a")] == [
        ("", 1),
        (f"{first},{second},", 1),
    ]


@pytest.mark.parametrize("max_step_tokens", [3, 4, 64])
def test_the_prompts_log_probabilities_begin_at_its_second_token(max_step_tokens: int) -> None:
    prompt = list(range(10))
    harness = Harness(CacheRunner(max_step_tokens=max_step_tokens))
    harness.submit("a", prompt, max_tokens=2, prompt_logprobs=True, sampling=SamplingParams(logprobs=3))
    harness.finish()
    assert harness.prompt_logprobs("a") == logprobs(prompt, 1, alternatives=3)
    tokens = prompt + continuation(prompt, 2)
    assert harness.logprobs("a") == logprobs(tokens, 10, alternatives=3)


def test_the_prompts_log_probabilities_come_with_the_first_choice_alone() -> None:
    prompt = list(range(7))
    harness = Harness()
    harness.submit("a", prompt, max_tokens=2, n=2, prompt_logprobs=True, sampling=SamplingParams(logprobs=0))
    harness.finish()
    assert harness.prompt_logprobs("a") == logprobs(prompt, 1, alternatives=0)
    assert all(not event.prompt_logprobs for event in harness.progress("a", 1))


def test_prompt_log_probabilities_are_handed_out_once_whatever_is_preempted() -> None:
    # "b" has the higher priority, and its arrival takes the blocks of "a" in the middle of its prompt.
    prompt = list(range(12))
    harness = Harness(CacheRunner(num_blocks=4, block_size=4, max_step_tokens=5))
    options = {"prompt_logprobs": True, "sampling": SamplingParams(logprobs=1)}
    harness.submit("a", prompt, max_tokens=3, **options)
    harness.engine.step()
    harness.submit("b", range(50, 60), max_tokens=2, priority=1)
    harness.finish()
    assert sum(report.preemptions for report in harness.reports) > 0
    assert harness.prompt_logprobs("a") == logprobs(prompt, 1, alternatives=1)
    assert harness.tokens("a") == continuation(prompt, 3)


def test_penalties_are_given_the_tokens_before() -> None:
    # The runner compares the history with its cache.
    harness = Harness()
    harness.submit("a", range(6), max_tokens=5, sampling=SamplingParams(presence_penalty=0.5))
    harness.submit("b", range(6), max_tokens=5, sampling=GREEDY)
    harness.finish()
    assert harness.tokens("a") == harness.tokens("b") == continuation(range(6), 5)
    (part, *_) = harness.runner.batches[-1].slices
    assert (len(part.history), part.prompt_length) == (10, 6)
