"""Drafts in the engine: which steps have them, and that nobody can tell from the answers."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.cache_runner import (
    VOCABULARY,
    CacheRunner,
    NextToken,
    continuation,
    logprobs,
    looping_token,
)
from tests.engine.harness import Harness

from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Failed, FailureCause, FinishReason, Request, SamplingParams
from cadenza.server.runner.base import NOT_FINITE

LOOP = [7, 8, 9]


def in_circles(context: Sequence[int], choice: int) -> int:
    """Always the token three places back, but for the first of another choice."""
    return context[-3] if len(context) != 7 or not choice else (context[-1] + choice) % VOCABULARY


def harness(
    *, drafts: int = 4, block_size: int = 32, after: NextToken = in_circles, tokens: int = 64, **runner: int
) -> Harness:
    """An engine on a model that goes round in circles."""
    made = CacheRunner(block_size=block_size, max_step_tokens=tokens, after=after, **runner)  # type: ignore[arg-type]
    return Harness(made, EngineOptions(speculation_tokens=drafts))


def drafted(one: Harness) -> list[int]:
    """Drafts of each step."""
    return [sum(part.num_drafts for part in batch.slices) for batch in one.runner.batches]


def test_a_loop_takes_fewer_steps_and_the_same_tokens() -> None:
    plain, fast = harness(drafts=0), harness()
    for one in (plain, fast):
        one.submit("a", 3 * LOOP, max_tokens=30)
        one.finish()
        assert one.tokens("a") == continuation(3 * LOOP, 30, after=in_circles)
        assert one.finished("a").completion_tokens == 30
    assert len(plain.runner.batches) == 30
    # The prefill, and steps of one token and four drafts, which all are right.
    assert len(fast.runner.batches) <= 1 + 8
    assert sum(drafted(plain)) == 0


def test_a_report_says_what_was_drafted_and_what_came_of_it() -> None:
    one = harness(after=looping_token)
    one.submit("a", 3 * LOOP, max_tokens=40)
    one.finish()
    drafts = sum(report.draft_tokens for report in one.reports)
    accepted = sum(report.draft_tokens_accepted for report in one.reports)
    assert drafts == sum(drafted(one))
    assert 0 < accepted < drafts
    assert accepted == 40 - len(one.runner.batches)
    assert sum(report.batch_tokens for report in one.reports) == one.runner.computed_tokens


def test_a_sequence_without_repetition_is_never_drafted() -> None:
    one = Harness()
    one.submit("a", [1, 2, 3], max_tokens=12)
    one.finish()
    assert sum(drafted(one)) == 0


def test_a_runner_that_takes_no_drafts_gets_none() -> None:
    one = harness(takes_drafts=False)
    one.submit("a", 3 * LOOP, max_tokens=12)
    one.finish()
    assert one.tokens("a") == continuation(3 * LOOP, 12, after=in_circles)


def test_no_draft_goes_past_the_last_token_that_was_asked_for() -> None:
    for max_tokens in range(1, 12):
        one = harness()
        one.submit("a", 3 * LOOP, max_tokens=max_tokens)
        one.finish()
        assert len(one.tokens("a")) == max_tokens
        assert one.finish_reason("a") is FinishReason.LENGTH
        assert one.runner.computed_tokens == 9 + max_tokens - 1


def test_tokens_behind_an_end_token_are_dropped() -> None:
    one = harness(after=lambda context, _: context[-4])
    one.submit("a", [*LOOP, 6, *LOOP, 6, 7], max_tokens=30, eos_token_ids=frozenset({9}))
    one.finish()
    assert one.tokens("a") == [8, 9]
    assert one.finish_reason("a") is FinishReason.STOP
    assert one.text("a") == "8,"
    assert one.finished("a").completion_tokens == 2
    # 9 and 6 were drafted and are right.
    assert drafted(one) == [0, 2]


def test_tokens_behind_a_stop_string_are_dropped() -> None:
    one = harness()
    one.submit("a", 3 * LOOP, max_tokens=30, stop=("9,7,8",))
    one.finish()
    assert one.text("a") == "7,8,"
    assert one.tokens("a") == [7, 8, 9, 7, 8]
    assert one.finish_reason("a") is FinishReason.STOP


def test_log_probabilities_come_with_accepted_drafts() -> None:
    for prompt_logprobs in (False, True):
        one = harness(after=looping_token)
        sampling = SamplingParams(logprobs=2)
        one.submit("a", 3 * LOOP, max_tokens=20, sampling=sampling, prompt_logprobs=prompt_logprobs)
        one.finish()
        whole = [*3 * LOOP, *continuation(3 * LOOP, 20, after=looping_token)]
        assert one.logprobs("a") == logprobs(whole, 9, 2)
        assert all(len(event.logprobs) == len(event.token_ids) for event in one.progress("a"))
        assert len(one.progress("a")) < 20


def test_penalties_see_the_drafts_before_a_token() -> None:
    # The runner compares the history with its cache.
    one = harness(after=looping_token)
    one.submit("a", 3 * LOOP, max_tokens=20, sampling=SamplingParams(frequency_penalty=0.5))
    one.finish()
    assert one.tokens("a") == continuation(3 * LOOP, 20, after=looping_token)
    assert sum(drafted(one)) > 0


def test_choices_are_drafted_each_by_its_own_tokens() -> None:
    one = harness(block_size=4)
    one.submit("a", 2 * LOOP, max_tokens=18, n=3)
    one.finish()
    for choice in range(3):
        assert one.tokens("a", choice) == continuation(2 * LOOP, 18, choice, in_circles)
    assert len(one.runner.batches) < 18
    assert one.blocks_used == 0


def test_drafts_take_no_block() -> None:
    for block_size in (1, 2, 4):
        one = harness(block_size=block_size)
        one.submit("a", 3 * LOOP, max_tokens=20)
        while not one.reports or one.reports[-1].running or not one.tokens("a"):
            one.engine.step()
            for sequence in one.engine._scheduler.running:
                assert len(sequence.block_table) <= -(-len(sequence.token_ids) // block_size)
        assert one.tokens("a") == continuation(3 * LOOP, 20, after=in_circles)
        assert (sum(drafted(one)) > 0) == (block_size > 1)


def test_only_tokens_of_the_answer_are_found_in_the_prefix_cache() -> None:
    # A wrong draft lies behind the last accepted token, where a block would end.
    one = harness(block_size=4, after=looping_token, num_blocks=64)
    prompt = 3 * LOOP
    for count in range(1, 24):
        one.submit(f"a{count}", prompt, max_tokens=count)
        while f"a{count}" in one.engine._requests or not one.tokens(f"a{count}"):
            one.engine.step()
        whole = [*prompt, *continuation(prompt, count, after=looping_token)]
        assert one.tokens(f"a{count}") == whole[9:]
        one.submit(f"b{count}", whole, max_tokens=3)
        while f"b{count}" in one.engine._requests or not one.tokens(f"b{count}"):
            one.engine.step()
        assert one.tokens(f"b{count}") == continuation(whole, 3, after=looping_token)


def test_a_full_step_has_no_room_for_drafts() -> None:
    one = harness(tokens=4, max_sequences=3)
    for name in "abc":
        one.submit(name, 2 * LOOP, max_tokens=12)
    one.finish()
    for name in "abc":
        assert one.tokens(name) == continuation(2 * LOOP, 12, after=in_circles)
    for batch in one.runner.batches:
        assert sum(len(part.token_ids) for part in batch.slices) <= 4


def test_prompts_go_before_drafts() -> None:
    one = harness(tokens=16)
    one.submit("a", 2 * LOOP, max_tokens=40)
    one.engine.step()
    one.submit("b", range(20, 50), max_tokens=2)
    one.finish()
    prefilled = [
        len(part.token_ids)
        for batch in one.runner.batches
        for part in batch.slices
        if part.token_ids[0] >= 20
    ]
    # Beside one stream a short prompt gets all that is left of the step, as it does without drafts.
    assert prefilled[:2] == [15, 15]
    assert one.tokens("a") == continuation(2 * LOOP, 40, after=in_circles)


def test_a_small_step_takes_doubtful_drafts_and_a_large_one_does_not() -> None:
    doubtful = {}
    for count in (1, 8):
        one = harness(after=looping_token, tokens=128, max_sequences=8)
        for index in range(count):
            one.submit(str(index), [*3 * LOOP, index, *LOOP], max_tokens=60)
        one.finish()
        doubtful[count] = sum(drafted(one)) / count
    assert doubtful[8] < doubtful[1]


def test_logits_behind_a_wrong_draft_need_not_be_finite() -> None:
    prompt = [1, 2, 3, 7, 4, 1, 2]

    def after(context: Sequence[int], _: int) -> int:
        if len(context) == 8:
            return 8  # 7 is drafted
        if context[-2:] == [3, 7]:
            return NOT_FINITE
        return 3 if len(context) == 7 else 50 + len(context)

    one = harness(after=after)
    one.submit("a", prompt, max_tokens=5)
    one.finish()
    assert one.tokens("a") == [3, 8, 59, 60, 61]
    assert sum(drafted(one)) > 0


def test_tokens_before_logits_that_are_not_finite_are_delivered() -> None:
    # The answer goes 7, 8, 9, 7, 8, 9, ... until it is 30 tokens long, then comes the poison.
    def after(context: Sequence[int], _: int) -> int:
        return 96 if len(context) == 30 else context[-3]

    answers = []
    for drafts in (0, 4):
        runner = CacheRunner(block_size=64, after=after, poison=96)
        one = Harness(runner, EngineOptions(speculation_tokens=drafts))
        one.submit("a", 3 * LOOP, max_tokens=50)
        one.finish()
        failed = one.end("a")
        assert isinstance(failed, Failed)
        assert failed.cause is FailureCause.LOGITS_NOT_FINITE
        answers.append((one.tokens("a"), one.text("a"), failed.message))
        assert one.blocks_used == 0
    assert answers[0] == answers[1]


def test_a_client_is_charged_for_the_drafts_that_it_got_and_no_others() -> None:
    one = harness(after=looping_token)
    one.submit("a", 3 * LOOP, max_tokens=40, client="c")
    one.engine.step()
    while one.engine._requests:
        # The prompt, and every token but the last: what is computed without drafts too.
        assert one.engine._scheduler._fair_share.served("c") == 9 + len(one.tokens("a")) - 1
        one.engine.step()
    assert 0 < sum(report.draft_tokens_accepted for report in one.reports) < sum(drafted(one))


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request whose answers are compared."""

    prompt: tuple[int, ...]
    max_tokens: int
    n: int
    stops: tuple[str, ...]
    ends: frozenset[int]
    logprobs: int | None
    penalty: float

    def submit(self, one: Harness, name: str) -> Request:
        sampling = SamplingParams(logprobs=self.logprobs, presence_penalty=self.penalty)
        return one.submit(
            name,
            self.prompt,
            self.max_tokens,
            n=self.n,
            stop=self.stops,
            eos_token_ids=self.ends,
            sampling=sampling,
        )


ASKS = st.builds(
    Ask,
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple),
    max_tokens=st.integers(1, 16),
    n=st.sampled_from((1, 1, 3)),
    stops=st.sampled_from(((), ("1,2",), ("0,", "3,1,"))),
    ends=st.sampled_from((frozenset(), frozenset({2}), frozenset({50, 60, 70}))),
    logprobs=st.sampled_from((None, 1)),
    penalty=st.sampled_from((0.0, 0.5)),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(ASKS, min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(0, 6),
    st.sampled_from((1, 3, 9)),
    st.booleans(),
)
def test_answers_are_the_same_with_drafts_and_without(
    asks: list[Ask], block_size: int, spare_blocks: int, mixed: int, prefix_cache: bool
) -> None:
    answers = []
    for drafts in (0, 1, 5):
        runner = CacheRunner(
            -(-28 // block_size) + spare_blocks,
            block_size,
            max_step_tokens=10,
            max_sequences=4,
            after=looping_token,
        )
        one = Harness(runner, EngineOptions(mixed, prefix_cache=prefix_cache, speculation_tokens=drafts))
        for index, ask in enumerate(asks):
            ask.submit(one, str(index))
        one.finish()
        answers.append([told(one, str(index), ask) for index, ask in enumerate(asks)])
        assert one.blocks_used == 0
    assert answers[1:] == answers[:-1]


def told(one: Harness, name: str, ask: Ask) -> list[object]:
    """All that a client sees of an answer."""
    choices = [
        (
            one.tokens(name, choice),
            one.text(name, choice),
            one.finish_reason(name, choice),
            one.logprobs(name, choice),
        )
        for choice in range(ask.n)
    ]
    end = one.finished(name)
    return [*choices, end.prompt_tokens, end.completion_tokens]


def test_fewer_than_no_drafts_are_refused() -> None:
    with pytest.raises(ValueError, match="speculation_tokens is -1; it must be at least 0"):
        EngineOptions(speculation_tokens=-1)
