"""What the reports of steps say for metrics, logs and traces."""

from tests.engine.cache_runner import CacheRunner
from tests.engine.harness import Harness

from cadenza.server.engine.request import Admitted, Preempted, StepKind


def test_a_step_says_whether_it_computed_prompts_or_next_tokens_or_both() -> None:
    harness = Harness(CacheRunner(takes_drafts=False))
    harness.submit("a", [1, 2, 3], max_tokens=3)
    harness.engine.step()
    harness.submit("b", [4, 5], max_tokens=2)
    harness.finish()
    assert [report.kind for report in harness.reports] == [
        StepKind.PREFILL,
        StepKind.MIXED,
        StepKind.DECODE,
    ]


def test_a_prompt_of_one_token_is_a_prompt() -> None:
    harness = Harness(CacheRunner(takes_drafts=False))
    harness.submit("a", [1], max_tokens=2)
    harness.finish()
    assert [report.kind for report in harness.reports] == [StepKind.PREFILL, StepKind.DECODE]


def test_a_step_that_failed_has_no_kind() -> None:
    runner = CacheRunner()
    harness = Harness(runner)
    harness.submit("a", [1, 2], max_tokens=2)
    runner.fail_steps = 1
    harness.finish()
    assert [report.kind for report in harness.reports] == [None]


def test_a_request_is_admitted_when_its_first_step_begins_with_what_the_prefix_cache_has() -> None:
    harness = Harness()
    harness.submit("a", [*range(1, 10)], max_tokens=1)
    harness.engine.step()
    harness.now = 3.0
    harness.submit("b", [*range(1, 10)], max_tokens=1)
    harness.finish()
    admitted = [event for event in harness.events if isinstance(event, Admitted)]
    assert admitted == [Admitted("a", 0.0, 0), Admitted("b", 3.0, 8)]


def test_every_preemption_names_its_request() -> None:
    harness = Harness(CacheRunner(num_blocks=6, block_size=2, max_step_tokens=16))
    for name, prompt in (("a", [1, 2, 3]), ("b", [4, 5, 6]), ("c", [7, 8])):
        harness.submit(name, prompt, max_tokens=8)
    harness.finish()
    named = [event.request_id for event in harness.events if isinstance(event, Preempted)]
    assert len(named) == sum(report.preemptions for report in harness.reports) > 0
    assert "a" not in named  # the oldest never gives way
