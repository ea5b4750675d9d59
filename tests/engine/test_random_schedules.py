"""Random schedules of everything at once, on a cache with hand-computed tokens.

The runner checks every batch against the contract (token budget, sequences, no shared block written); a block
that is lost, freed too early or shared wrongly shows as a wrong token or in the cache's books.
"""

import dataclasses
import random
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.cache_runner import (
    CacheRunner,
    NextToken,
    continuation,
    logprobs,
    looping_token,
    next_token,
)
from tests.engine.harness import Harness

from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import (
    Cancel,
    Cancelled,
    Failed,
    FailureCause,
    Finished,
    Progress,
    SamplingParams,
)

POISON = 96
PREFIXES = ((), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 9, 9, 9, 9), (7,) * 8)
MOST_TOKENS = 8 + 6 + 8
"""Prefix, tail and new tokens of a request."""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request of a random schedule. Steps and seconds are the same."""

    before_step: int
    prompt: tuple[int, ...]
    max_tokens: int
    n: int
    priority: int
    client: str
    cache_prompt: bool
    logprobs: int | None
    prompt_logprobs: bool
    penalty: float
    cancel_after: int | None
    deadline: float

    def choice(self, number: int, after: NextToken) -> list[int]:
        """The tokens of a choice that is let go to its end."""
        return continuation(self.prompt, self.max_tokens, number, after)

    def not_finite(self, after: NextToken) -> bool:
        """Whether the poison stands in a context that some choice's next token depends on."""
        return POISON in self.prompt or any(POISON in self.choice(i, after)[:-1] for i in range(self.n))


ARRIVALS = st.builds(
    Arrival,
    before_step=st.integers(0, 12),
    prompt=st.builds(
        lambda prefix, tail: (*prefix, *tail),
        st.sampled_from(PREFIXES),
        st.lists(st.integers(0, POISON), min_size=1, max_size=6),
    ),
    max_tokens=st.integers(1, 8),
    n=st.sampled_from((1, 1, 2, 4)),
    priority=st.integers(-1, 1),
    client=st.sampled_from("abc"),
    cache_prompt=st.sampled_from((True, True, False)),
    logprobs=st.sampled_from((None, 0, 2)),
    prompt_logprobs=st.booleans(),
    penalty=st.sampled_from((0.0, 0.5)),
    cancel_after=st.none() | st.integers(0, 12),
    deadline=st.just(float("inf")) | st.integers(1, 30).map(float),
)


@dataclasses.dataclass(frozen=True)
class World:
    """The machine that a schedule meets."""

    spare_blocks: int
    block_size: int
    max_sequences: int
    mixed_prefill_tokens: int
    short_prompt_tokens: int
    prefix_cache: bool
    failing_steps: frozenset[int]
    """Fewer than end the engine."""
    speculation_tokens: int = 4
    after: NextToken = next_token

    def harness(self) -> Harness:
        num_blocks = -(-MOST_TOKENS // self.block_size) + self.spare_blocks
        runner = CacheRunner(
            num_blocks,
            self.block_size,
            max_step_tokens=9,
            max_sequences=self.max_sequences,
            poison=POISON,
            after=self.after,
        )
        options = EngineOptions(
            self.mixed_prefill_tokens,
            self.short_prompt_tokens,
            overdue_seconds=15,
            prefix_cache=self.prefix_cache,
            speculation_tokens=self.speculation_tokens,
            client_weights={"c": 3.0},
        )
        return Harness(runner, options)


WORLDS = st.builds(
    World,
    spare_blocks=st.integers(0, 8),
    block_size=st.integers(1, 5),
    max_sequences=st.integers(1, 5),
    mixed_prefill_tokens=st.sampled_from((1, 4, 9)),
    short_prompt_tokens=st.sampled_from((0, 3, 512)),
    prefix_cache=st.sampled_from((True, True, True, False)),
    failing_steps=st.frozensets(st.integers(0, 20), max_size=2),
    speculation_tokens=st.sampled_from((0, 1, 4)),
    after=st.sampled_from((next_token, looping_token)),
)


def submit(harness: Harness, name: str, arrival: Arrival) -> None:
    harness.submit(
        name,
        arrival.prompt,
        arrival.max_tokens,
        n=arrival.n,
        sampling=SamplingParams(logprobs=arrival.logprobs, frequency_penalty=arrival.penalty),
        prompt_logprobs=arrival.prompt_logprobs and arrival.logprobs is not None,
        priority=arrival.priority,
        client=arrival.client,
        cache_prompt=arrival.cache_prompt,
        deadline=arrival.deadline,
    )


def step(harness: Harness) -> None:
    """One engine step, which must leave the books right; an idle engine does not wait."""
    harness.engine.commands.put(Cancel("nobody"))
    harness.engine.step()
    requests = harness.engine._requests.values()
    harness.engine._kv_cache.check([sequence for active in requests for sequence in active.sequences])


def assert_nothing_is_left(harness: Harness) -> None:
    engine = harness.engine
    assert engine._kv_cache.num_used == 0
    assert not engine._requests
    assert not engine._scheduler.running
    assert len(engine._scheduler.waiting) == 0
    assert len(engine._scheduler._fair_share) == 0


def assert_answer(harness: Harness, name: str, arrival: Arrival, after: NextToken) -> None:
    """The request has ended once, and what came before its end is right."""
    events = [event for event in harness.events if event.request_id == name]
    assert isinstance(events[-1], Finished | Cancelled | Failed)
    end = harness.end(name)
    assert end is events[-1]
    if isinstance(end, Failed) and end.cause is FailureCause.LOGITS_NOT_FINITE:
        assert arrival.not_finite(after)
    complete = isinstance(end, Finished)
    assert not (complete and arrival.not_finite(after))
    for choice in range(arrival.n):
        tokens = harness.tokens(name, choice)
        assert tokens == arrival.choice(choice, after)[: len(tokens)]
        reasons = [event.finish_reason is not None for event in harness.progress(name, choice)]
        assert not any(reasons[:-1])
        assert not complete or (reasons[-1] and len(tokens) == arrival.max_tokens)
        if arrival.logprobs is not None:
            expected = logprobs([*arrival.prompt, *tokens], len(arrival.prompt), arrival.logprobs)
            assert harness.logprobs(name, choice) == expected
    found = harness.prompt_logprobs(name)
    if arrival.prompt_logprobs and arrival.logprobs is not None:
        assert found == logprobs(arrival.prompt, 1, arrival.logprobs)[: len(found)]
        assert len(found) == len(arrival.prompt) - 1 or not harness.tokens(name)
    else:
        assert not found
    if isinstance(end, Finished):
        assert end.completion_tokens == arrival.n * arrival.max_tokens
        assert end.cached_prompt_tokens == 0 or arrival.cache_prompt


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ARRIVALS, min_size=1, max_size=10), WORLDS)
def test_every_request_ends_once_with_its_own_tokens_and_no_block_is_lost(
    arrivals: list[Arrival], world: World
) -> None:
    harness = world.harness()
    steps = 0
    while steps < 14 or harness.engine._requests:
        for index, arrival in enumerate(arrivals):
            if arrival.before_step == steps:
                submit(harness, str(index), arrival)
            if arrival.cancel_after is not None and arrival.before_step + arrival.cancel_after == steps:
                harness.engine.commands.put(Cancel(str(index)))
        if steps in world.failing_steps:
            harness.runner.fail_steps = 1
        harness.now = float(steps)
        step(harness)
        steps += 1
        assert steps < 1000, "a sequence starves"
    for index, arrival in enumerate(arrivals):
        assert_answer(harness, str(index), arrival, world.after)
    assert_nothing_is_left(harness)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((1, 2, 4)), st.integers(0, 6))
def test_low_priority_comes_to_its_end_however_much_high_priority_arrives(
    seed: int, max_sequences: int, spare_blocks: int
) -> None:
    world = World(spare_blocks, 2, max_sequences, 4, 3, True, frozenset())
    harness = world.harness()
    numbers = random.Random(seed)
    harness.submit("low", [5, 6, 7], max_tokens=8, priority=-1, n=2)
    steps = 0
    while any(name == "low" for name in harness.engine._requests) or not steps:
        for index in range(numbers.randint(1, 3)):
            prompt = [numbers.randrange(90) for _ in range(numbers.randint(1, 14))]
            harness.submit(f"{steps}-{index}", prompt, numbers.randint(1, 8), priority=numbers.randint(0, 1))
        harness.now = float(steps)
        step(harness)
        steps += 1
        assert steps < 300, "the low priority starves"
    # Overdue after 15 steps of waiting, it waits for those that run, then for its two choices' own work.
    assert isinstance(harness.end("low"), Finished | Failed)


def stage(harness: Harness, name: str) -> str:
    """Where a request is."""
    active = harness.engine._requests.get(name)
    if active is None:
        return "ended"
    if not active.started:
        return "queued"
    if not active.completion_tokens:
        return "prefilling"
    left = min(s.request.max_tokens - s.num_generated for s in active.sequences)
    return "last token" if left == 1 else "decoding"


def end_a_thousand(*, by_deadline: bool) -> Counter[str]:
    """Ends 1,000 requests at random points, some at once; returns at what stages they were."""
    numbers = random.Random(11)
    runner = CacheRunner(num_blocks=24, block_size=4, max_step_tokens=8, max_sequences=4)
    harness = Harness(runner, EngineOptions(mixed_prefill_tokens=4))
    due: dict[str, int] = {}
    stages: Counter[str] = Counter()
    steps, submitted = 0, 0
    while submitted < 1000 or due:
        while submitted < 1000 and len(due) < 8:
            name, ends = str(submitted), steps + numbers.randint(0, 25)
            prompt = [numbers.randrange(90) for _ in range(numbers.randint(1, 30))]
            deadline = float(ends) if by_deadline else float("inf")
            choices = numbers.choice((1, 1, 3))
            harness.submit(name, prompt, numbers.randint(1, 12), deadline=deadline, n=choices)
            due[name] = ends
            submitted += 1
        ending = [name for name, at in due.items() if at == steps]
        for name in ending:
            stages[stage(harness, name)] += 1
            if not by_deadline:
                harness.engine.commands.put(Cancel(name))
            del due[name]
        harness.now = float(steps)
        step(harness)
        # Gone at once, with its blocks: the books are checked against the sequences that there are.
        assert not harness.engine._requests.keys() & set(ending)
        steps += 1
    assert_nothing_is_left(harness)
    ended = [event.request_id for event in harness.events if isinstance(event, Finished | Cancelled | Failed)]
    assert len(ended) == len(set(ended)) == 1000
    last = harness.reports[-1]
    assert (last.running, last.waiting, last.kv_blocks_used) == (0, 0, 0)
    return stages


def test_a_thousand_cancelled_requests_leave_nothing_behind() -> None:
    stages = end_a_thousand(by_deadline=False)
    assert min(stages[name] for name in ("queued", "prefilling", "decoding", "last token")) > 20


def test_a_thousand_expired_requests_leave_nothing_behind() -> None:
    stages = end_a_thousand(by_deadline=True)
    assert min(stages[name] for name in ("queued", "prefilling", "decoding", "last token")) > 20


def test_an_ended_request_has_no_event_after_its_end() -> None:
    harness = Harness()
    harness.submit("a", range(9), max_tokens=3, n=2)
    harness.finish()
    kinds = [type(event) for event in harness.events]
    assert kinds.index(Finished) == len(kinds) - 1
    assert kinds.count(Progress) == 6
