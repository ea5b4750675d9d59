"""What fails, fails alone: the engine goes on where it can, and says so where it cannot."""

import pytest
from tests.engine.cache_runner import CacheRunner, continuation
from tests.engine.harness import Harness

from cadenza.server.engine.block_pool import KVCacheError
from cadenza.server.engine.request import Drain, Failed, FailureCause
from cadenza.server.runner.base import RunnerError, StepBatch, StepResult

POISON = 96


class FailsNext(CacheRunner):
    """Raises in the steps with these numbers, counted from 1, probes included."""

    def __init__(self, *failing: int) -> None:
        super().__init__(max_sequences=2)
        self._failing = failing

    def step(self, batch: StepBatch) -> StepResult:
        self.fail_steps = int(len(self.batches) + 1 in self._failing)
        return super().step(batch)


def test_a_failed_step_ends_its_own_requests_and_no_others() -> None:
    harness = Harness(FailsNext(2))
    for name in "abc":
        harness.submit(name, [1, 2, 3], max_tokens=4)
    harness.finish()
    for name in "ab":
        assert harness.end(name) == Failed(name, FailureCause.STEP_FAILED, "program 3 failed")
    assert harness.tokens("c") == continuation([1, 2, 3], 4)
    assert harness.blocks_used == 0


def test_after_a_failed_step_one_token_is_tried_on_a_free_block() -> None:
    harness = Harness(FailsNext(1))
    harness.submit("a", range(6))
    harness.finish()
    (probe,) = harness.runner.batches[1].slices
    assert (list(probe.token_ids), probe.start, len(probe.block_table)) == ([0], 0, 1)


def test_nothing_of_a_failed_step_is_found_in_the_cache() -> None:
    # The second step computes the prompt's second half; its blocks hold nonsense.
    harness = Harness(FailsNext(2))
    prompt = list(range(32))
    harness.submit("a", prompt, max_tokens=2)
    harness.engine.step()
    harness.engine.step()
    assert isinstance(harness.end("a"), Failed)
    harness.submit("b", prompt, max_tokens=5)
    harness.finish()
    assert harness.tokens("b") == continuation(prompt, 5)
    assert harness.finished("b").cached_prompt_tokens == 16


def test_a_findable_block_that_a_failed_step_was_writing_is_not_found() -> None:
    # The first choice ends with its first token and leaves the prompt's two full blocks; the second has them
    # to itself and writes the last token again, in the step that fails.
    prompt = list(range(8))
    (end,) = continuation(prompt, 1)
    harness = Harness(FailsNext(2))
    harness.submit("a", prompt, max_tokens=4, n=2, eos_token_ids=frozenset({end}))
    harness.engine.step()
    harness.engine.step()
    assert isinstance(harness.end("a"), Failed)
    harness.submit("b", [*prompt, 1], max_tokens=4)
    harness.finish()
    assert harness.finished("b").cached_prompt_tokens == 4
    assert harness.tokens("b") == continuation([*prompt, 1], 4)


def test_choices_fail_together() -> None:
    harness = Harness(FailsNext(3))
    harness.submit("a", range(6), max_tokens=9, n=4)
    harness.finish()
    assert isinstance(harness.end("a"), Failed)
    assert harness.blocks_used == 0
    assert (harness.reports[-1].running, harness.reports[-1].waiting) == (0, 0)


def test_a_runner_that_fails_the_probe_too_ends_the_engine() -> None:
    harness = Harness(FailsNext(1, 2))
    harness.submit("a", [1])
    with pytest.raises(RunnerError, match="program 3 failed"):
        harness.engine.run()


def test_a_runner_that_answers_the_probe_without_a_token_ends_the_engine() -> None:
    class Nan(FailsNext):
        def step(self, batch: StepBatch) -> StepResult:
            result = super().step(batch)
            return StepResult([-2] * len(result.token_ids))

    harness = Harness(Nan(1))
    harness.submit("a", [1])
    with pytest.raises(
        RunnerError, match=r"after a failed step \(program 3 failed\) the runner gives no token"
    ):
        harness.engine.run()


def test_three_failed_steps_in_a_row_end_the_engine() -> None:
    # Between them lie the probes.
    harness = Harness(FailsNext(1, 3, 5))
    for name in "abcdef":
        harness.submit(name, [1])
    with pytest.raises(RunnerError):
        harness.engine.run()
    assert len(harness.runner.batches) == 5


def test_failed_steps_with_good_ones_between_do_not_end_the_engine() -> None:
    harness = Harness(FailsNext(1, 4, 7))
    for index in range(12):
        harness.submit(str(index), [index + 1], max_tokens=1)
    harness.finish()
    failed = [event.request_id for event in harness.events if isinstance(event, Failed)]
    assert failed == ["0", "1", "4", "5", "8", "9"]


def test_wrong_books_end_the_engine() -> None:
    harness = Harness(FailsNext(2))
    harness.submit("a", [1])
    harness.submit("b", [1])
    harness.engine.step()
    harness.engine._kv_cache.borrow()
    with pytest.raises(KVCacheError, match="reference counts"):
        harness.engine.run()


def test_what_is_no_runner_error_is_a_bug_and_ends_the_engine() -> None:
    class Broken(CacheRunner):
        def step(self, batch: StepBatch) -> StepResult:
            raise ZeroDivisionError

    harness = Harness(Broken())
    harness.submit("a", [1])
    with pytest.raises(ZeroDivisionError):
        harness.engine.run()


def test_logits_that_are_not_finite_end_their_own_request() -> None:
    harness = Harness(CacheRunner(poison=POISON))
    harness.submit("bad", [1, POISON, 2], max_tokens=4)
    harness.submit("good", [1, 2, 3], max_tokens=4)
    harness.finish()
    failed = harness.end("bad")
    assert isinstance(failed, Failed)
    assert failed.cause is FailureCause.LOGITS_NOT_FINITE
    assert failed.message == "the logits after 3 tokens of choice 0 are not finite"
    assert harness.tokens("good") == continuation([1, 2, 3], 4)
    assert len(harness.runner.batches) == 4


def test_a_choice_whose_logits_are_not_finite_ends_all_choices() -> None:
    # Choice 1 generates the poison as its first token, and the step after that is the last.
    prompt = next([a, b] for a in range(90) for b in range(90) if continuation([a, b], 1, 1) == [POISON])
    harness = Harness(CacheRunner(poison=POISON))
    harness.submit("a", prompt, max_tokens=20, n=3)
    harness.finish()
    assert isinstance(harness.end("a"), Failed)
    assert harness.blocks_used == 0
    assert harness.tokens("a", 1) == [POISON]


def test_blocks_of_a_request_without_finite_logits_are_not_found() -> None:
    # The poison comes in the second half: the first was computed, and registered, in a step of its own.
    prompt = [*range(30), POISON, 1]
    harness = Harness(CacheRunner(poison=POISON))
    harness.submit("a", prompt)
    harness.engine.step()
    harness.engine.step()
    assert isinstance(harness.end("a"), Failed)
    harness.submit("b", range(20), max_tokens=2)
    harness.finish()
    assert harness.finished("b").cached_prompt_tokens == 0
    assert harness.tokens("b") == continuation(range(20), 2)


def test_draining_goes_on_after_a_failed_step() -> None:
    harness = Harness(FailsNext(2))
    for name in "abc":
        harness.submit(name, [1], max_tokens=3)
    harness.engine.commands.put(Drain())
    harness.engine.run()
    assert harness.tokens("c") == continuation([1], 3)
