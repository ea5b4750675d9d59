"""What each step advances, who is next, and who gives way."""

from collections import Counter
from collections.abc import Mapping

import pytest

from cadenza.server.engine.fair_share import MAX_IDLE_CLIENTS, FairShare
from cadenza.server.engine.kv_cache import KVCache
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import GREEDY, Request
from cadenza.server.engine.scheduler import Scheduler, SchedulerLimits
from cadenza.server.engine.sequence import Sequence


class Harness:
    """A scheduler, and what the engine and a runner would do around it."""

    def __init__(
        self,
        *,
        tokens: int = 8,
        sequences: int = 4,
        mixed: int = 4,
        short: int = 0,
        blocks: int = 8,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.kv_cache = KVCache(blocks, block_size=4)
        self.options = EngineOptions(mixed, short, overdue_seconds=10, client_weights=weights or {})
        self.scheduler = Scheduler(SchedulerLimits(tokens, sequences), self.options, self.kv_cache)
        self.preempted: list[str] = []
        self.now = 0.0
        self._sequences: dict[str, Sequence] = {}
        self._count = 0

    def add(self, name: str, prompt: int, priority: int = 0, client: str = "", like: str = "") -> None:
        """A request whose tokens are no other's, or begin as those of `like` do."""
        first = self.sequence(like).token_ids[0] if like else 100 * self._count
        request = Request(
            name,
            tuple(range(first, first + prompt)),
            max_tokens=100,
            arrival_time=self.now,
            priority=priority,
            client=client,
        )
        self._sequences[name] = Sequence.of(request, self._count, GREEDY, [])
        self._count += 1
        self.scheduler.add(self._sequences[name])

    def sequence(self, name: str) -> Sequence:
        return self._sequences[name]

    def end(self, name: str) -> None:
        self.scheduler.remove(self._sequences.pop(name))

    def step(self) -> list[tuple[str, int]]:
        """Plans a step, marks it as computed, and lets every sequence that chose a token have it."""
        decoding = {sequence for sequence in self.scheduler.running if sequence.num_pending == 1}
        plan = self.scheduler.schedule(self.now)
        prefills = [part for part in plan.advances if part.sequence not in decoding]
        pieces = sum(part.num_tokens for part in prefills if part.sequence.goes_in_pieces)
        decodes = sum(part.sequence in decoding for part in plan.advances)
        assert pieces <= max(self.options.mixed_prefill_tokens, 2 * decodes) or not decodes
        self.preempted = [sequence.request_id for sequence in plan.preempted]
        for advance in plan.advances:
            complete = advance.num_tokens == advance.sequence.num_pending
            self.kv_cache.commit(advance.sequence, advance.num_tokens)
            if complete:
                advance.sequence.token_ids.append(0)
        self.kv_cache.check(list(self._sequences.values()))
        return [(advance.sequence.request_id, advance.num_tokens) for advance in plan.advances]

    @property
    def running(self) -> list[str]:
        return [sequence.request_id for sequence in self.scheduler.running]


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    harness = Harness(tokens=8)
    harness.add("a", 18)
    assert [harness.step() for _ in range(4)] == [[("a", 8)], [("a", 8)], [("a", 2)], [("a", 1)]]


def test_decodes_go_first_and_bound_the_prefill_beside_them() -> None:
    harness = Harness(tokens=8, mixed=4)
    harness.add("a", 2)
    harness.step()
    harness.add("b", 10)
    assert harness.step() == [("a", 1), ("b", 4)]
    assert harness.step() == [("a", 1), ("b", 4)]
    assert harness.step() == [("a", 1), ("b", 2)]
    assert harness.step() == [("a", 1), ("b", 1)]


def test_beside_decodes_chunks_become_smaller_the_further_back_they_look() -> None:
    harness = Harness(tokens=1024, mixed=512, blocks=1000)
    harness.add("a", 2)
    harness.step()
    harness.add("b", 1536)
    # A chunk of n tokens from position p on has n * (1 + p / 256) = 512, rounded.
    assert harness.step() == [("a", 1), ("b", 512)]
    assert harness.step() == [("a", 1), ("b", 171)]
    assert harness.step() == [("a", 1), ("b", 140)]
    harness.end("a")
    assert harness.step() == [("b", 1536 - 512 - 171 - 140)]


def test_what_a_prompt_leaves_of_the_budget_the_next_one_gets() -> None:
    harness = Harness(tokens=1024, mixed=512, blocks=1000)
    harness.add("a", 2)
    harness.step()
    harness.add("b", 512 + 128)
    assert harness.step() == [("a", 1), ("b", 512)]
    harness.add("c", 1000)
    # 128 tokens behind 512 count three times: 128 of 512 are left.
    assert harness.step() == [("a", 1), ("b", 128), ("c", 128)]


def test_a_short_prompt_takes_what_the_step_holds_beside_decodes() -> None:
    harness = Harness(tokens=8, mixed=2, short=10)
    harness.add("a", 2)
    harness.step()
    harness.add("b", 10)
    assert harness.step() == [("a", 1), ("b", 7)]
    assert harness.step() == [("a", 1), ("b", 3)]


def test_short_prompts_pass_a_long_one_that_goes_in_pieces() -> None:
    harness = Harness(tokens=8, mixed=2, short=4, blocks=20, sequences=5)
    harness.add("a", 2)
    harness.step()
    harness.add("long", 6)
    harness.add("longer", 7)
    harness.add("b", 4)
    harness.add("c", 3)
    assert harness.step() == [("a", 1), ("long", 2), ("b", 4), ("c", 1)]
    # Beside more decodes 1.5 tokens of pieces for each.
    assert harness.step() == [("a", 1), ("b", 1), ("long", 3), ("c", 2)]
    assert harness.step() == [("a", 1), ("long", 1), ("b", 1), ("c", 1), ("longer", 4)]


def test_a_prompt_is_short_by_what_the_cache_leaves_of_it() -> None:
    harness = Harness(tokens=8, mixed=2, short=4, blocks=20)
    harness.add("a", 2)
    harness.step()
    harness.add("b", 10)
    assert [harness.step() for _ in range(5)][-1] == [("a", 1), ("b", 2)]
    harness.add("again", 10, like="b")
    # Two blocks of 4 tokens are there already.
    assert harness.step() == [("a", 1), ("b", 1), ("again", 2)]
    assert not harness.sequence("again").goes_in_pieces


def test_what_passes_a_long_prompt_leaves_it_the_blocks_it_needs() -> None:
    harness = Harness(tokens=16, mixed=2, short=4, blocks=7)
    harness.add("a", 2)
    harness.step()
    harness.add("long", 16)
    harness.step()
    for name in "bcd":
        harness.add(name, 4)
    # Of 7 blocks of 4 tokens a has one, and long will have four.
    assert harness.step() == [("a", 1), ("long", 2), ("b", 4), ("c", 4)]


def test_several_short_prompts_share_a_step() -> None:
    harness = Harness(tokens=8)
    for name in "abc":
        harness.add(name, 3)
    assert harness.step() == [("a", 3), ("b", 3), ("c", 2)]


def test_no_more_sequences_run_than_allowed() -> None:
    harness = Harness(sequences=2)
    for name in "abc":
        harness.add(name, 1)
    assert [name for name, _ in harness.step()] == ["a", "b"]
    harness.end("a")
    assert [name for name, _ in harness.step()] == ["b", "c"]


def test_a_prompt_waits_until_its_blocks_are_free() -> None:
    harness = Harness(tokens=64, mixed=64, blocks=4)
    harness.add("a", 12)
    harness.add("b", 8)
    assert harness.step() == [("a", 12)]
    assert harness.step() == [("a", 1)]
    harness.end("a")
    assert harness.step() == [("b", 8)]


def test_the_newest_sequence_gives_way_when_blocks_run_out() -> None:
    harness = Harness(tokens=64, mixed=64, blocks=2)
    harness.add("old", 4)
    harness.add("new", 3)
    assert harness.step() == [("old", 4), ("new", 3)]
    assert harness.step() == [("old", 1)]
    assert harness.preempted == ["new"]


def test_a_lower_priority_gives_way_before_a_newer_sequence() -> None:
    harness = Harness(tokens=64, mixed=64, blocks=3)
    harness.add("low", 3, priority=-1)
    harness.step()
    harness.add("high", 4)
    harness.add("new", 4)
    harness.step()
    assert harness.running == ["low", "high", "new"]
    harness.step()
    assert harness.preempted == ["low", "new"]


def test_the_highest_priority_is_next_then_the_oldest() -> None:
    harness = Harness(sequences=1)
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 3)):
        harness.add(name, 2, priority=priority)
    order = []
    for _ in range(4):
        ((name, _),) = harness.step()
        order.append(name)
        harness.end(name)
    assert order == ["high", "first", "second", "low"]


def test_a_higher_priority_takes_the_place_of_the_lowest_that_runs() -> None:
    harness = Harness(sequences=2)
    harness.add("low", 2, priority=-1)
    harness.add("middle", 2)
    harness.step()
    harness.add("high", 2, priority=1)
    harness.step()
    assert (harness.preempted, harness.running) == (["low"], ["middle", "high"])


def test_a_higher_priority_takes_blocks_only_where_they_suffice() -> None:
    # Eight blocks: "low" has two, "high" four; "higher" needs five, "urgent" four.
    harness = Harness(tokens=64, mixed=64, blocks=8)
    harness.add("low", 7, priority=-1)
    harness.add("high", 14, priority=5)
    harness.step()
    harness.add("higher", 18, priority=3)
    harness.step()
    assert (harness.preempted, harness.running) == ([], ["high", "low"])
    harness.end("higher")
    harness.add("urgent", 14, priority=3)
    harness.step()
    assert (harness.preempted, harness.running) == (["low"], ["high", "urgent"])


def test_the_same_priority_takes_nobodys_place() -> None:
    harness = Harness(sequences=1)
    harness.add("a", 2, priority=2)
    harness.step()
    harness.add("b", 2, priority=2)
    assert harness.step() == [("a", 1)]


def test_what_has_waited_too_long_goes_before_every_priority_and_is_not_put_off() -> None:
    harness = Harness(sequences=1)
    harness.add("running", 2, priority=5)
    harness.step()
    harness.add("low", 2, priority=-1)
    harness.now = 10.0
    harness.add("high", 2, priority=4)
    harness.end("running")
    assert harness.step() == [("low", 2)]
    assert harness.step() == [("low", 1)]
    harness.end("low")
    assert harness.step() == [("high", 2)]


def test_what_was_overdue_keeps_its_blocks_when_they_run_out() -> None:
    harness = Harness(tokens=64, mixed=64, blocks=2)
    harness.add("low", 3, priority=-1)
    harness.now = 10.0
    assert harness.step() == [("low", 3)]
    harness.add("high", 3, priority=1)
    assert harness.step() == [("low", 1), ("high", 3)]
    assert harness.step() == [("low", 1)]
    assert harness.preempted == ["high"]


def test_waiting_adds_up_over_preemptions() -> None:
    harness = Harness(sequences=1)
    harness.add("low", 2, priority=-1)
    for turn in range(3):
        assert harness.step()[0][0] == "low"
        harness.add(f"high{turn}", 2)
        assert harness.step()[0][0] == f"high{turn}"
        harness.now += 4.0
        harness.end(f"high{turn}")
    # It has waited for 12 seconds in all.
    assert harness.step()[0][0] == "low"
    harness.add("high", 2)
    assert harness.step()[0][0] == "low"


def test_clients_share_the_work_by_their_weights() -> None:
    # One place, each request is computed in one step of two tokens: counters grow by 2 for "light" and by 2/3
    # for "heavy", which therefore gets three requests for one of the other's.
    harness = Harness(sequences=1, weights={"heavy": 3.0})
    for index in range(40):
        harness.add(f"heavy{index}", 2, client="heavy")
        harness.add(f"light{index}", 2, client="light")
    begun: Counter[str] = Counter()
    for _ in range(40):
        ((name, _),) = harness.step()
        begun[name.rstrip("0123456789")] += 1
        harness.end(name)
    assert begun == {"heavy": 30, "light": 10}


def test_a_client_with_many_requests_does_not_hold_up_a_client_with_one() -> None:
    harness = Harness(sequences=1)
    for index in range(9):
        harness.add(f"many{index}", 2, client="many")
    ((name, _),) = harness.step()
    harness.add("one", 2, client="one")
    harness.end(name)
    ((name, _),) = harness.step()
    assert name == "many1"  # "one" came in level with "many", and is newer
    harness.end(name)
    assert harness.step() == [("one", 2)]


def test_a_client_that_comes_back_is_lifted_to_the_least_active_one() -> None:
    share = FairShare({})
    share.enter("a")
    share.charge("a", 100)
    share.enter("b")
    assert share.served("b") == 100
    share.charge("b", 50)
    share.leave("b")
    share.enter("b")
    assert share.served("b") == 150  # had more than its share, and keeps it
    share.leave("b")
    share.charge("a", 100)
    share.enter("b")
    assert share.served("b") == 200


def test_clients_that_have_gone_are_forgotten() -> None:
    share = FairShare({})
    share.enter("stays")
    for index in range(MAX_IDLE_CLIENTS + 100):
        share.enter(str(index))
        share.charge(str(index), 1 + index)
        share.leave(str(index))
    share.enter("last")
    assert len(share) == MAX_IDLE_CLIENTS + 2
    share.leave("last")
    share.leave("stays")
    assert len(share) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixed_prefill_tokens": 0}, "mixed_prefill_tokens is 0; it must be at least 1"),
        ({"short_prompt_tokens": -1}, "short_prompt_tokens is -1; it must be at least 0"),
        ({"overdue_seconds": 0.0}, "overdue_seconds is 0.0; it must be above 0"),
        ({"client_weights": {"a": -1.0}}, "the weight of client 'a' is -1.0; it must be finite and above 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options)  # type: ignore[arg-type]
