"""The scheduler and the block pool: what each step advances, and that no block is lost."""

import pytest

from cadenza.server.engine.kv_cache import BlockPool, KVCache
from cadenza.server.engine.request import Request
from cadenza.server.engine.scheduler import Scheduler, SchedulerLimits
from cadenza.server.engine.sequence import Sequence
from cadenza.server.engine.text import TextAssembler


def sequence(name: str, prompt: int) -> Sequence:
    request = Request(name, tuple(range(prompt)), max_tokens=100, arrival_time=0.0)
    return Sequence(request, TextAssembler([], []), list(request.prompt_token_ids))


def scheduler(*, tokens: int = 8, sequences: int = 4, mixed: int = 4, blocks: int = 8) -> Scheduler:
    return Scheduler(SchedulerLimits(tokens, sequences, mixed), KVCache(blocks, block_size=4))


def run(under_test: Scheduler) -> list[tuple[str, int]]:
    """Plans a step, marks it as computed, and lets every sequence that chose a token have it."""
    plan = under_test.schedule()
    for advance in plan.advances:
        complete = advance.num_tokens == advance.sequence.num_pending
        advance.sequence.num_computed += advance.num_tokens
        if complete:
            advance.sequence.token_ids.append(0)
    return [(advance.sequence.request_id, advance.num_tokens) for advance in plan.advances]


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    under_test = scheduler(tokens=8)
    under_test.add(sequence("a", 18))
    assert [run(under_test) for _ in range(4)] == [[("a", 8)], [("a", 8)], [("a", 2)], [("a", 1)]]


def test_decodes_go_first_and_bound_the_prefill_beside_them() -> None:
    under_test = scheduler(tokens=8, mixed=4)
    under_test.add(sequence("a", 2))
    run(under_test)
    under_test.add(sequence("b", 10))
    assert run(under_test) == [("a", 1), ("b", 4)]
    assert run(under_test) == [("a", 1), ("b", 4)]
    assert run(under_test) == [("a", 1), ("b", 2)]
    assert run(under_test) == [("a", 1), ("b", 1)]


def test_several_short_prompts_share_a_step() -> None:
    under_test = scheduler(tokens=8)
    for name in "abc":
        under_test.add(sequence(name, 3))
    assert run(under_test) == [("a", 3), ("b", 3), ("c", 2)]


def test_no_more_sequences_run_than_allowed() -> None:
    under_test = scheduler(sequences=2)
    for name in "abc":
        under_test.add(sequence(name, 1))
    assert [name for name, _ in run(under_test)] == ["a", "b"]
    under_test.remove(under_test.running[0])
    assert [name for name, _ in run(under_test)] == ["b", "c"]


def test_a_prompt_waits_until_its_blocks_are_free() -> None:
    under_test = scheduler(tokens=64, mixed=64, blocks=4)
    under_test.add(sequence("a", 12))
    under_test.add(sequence("b", 8))
    assert run(under_test) == [("a", 12)]
    assert run(under_test) == [("a", 1)]
    under_test.remove(under_test.running[0])
    assert run(under_test) == [("b", 8)]


def test_the_newest_sequence_gives_way_when_blocks_run_out() -> None:
    under_test = scheduler(tokens=64, mixed=64, blocks=2)
    old, new = sequence("old", 4), sequence("new", 3)
    under_test.add(old)
    under_test.add(new)
    assert run(under_test) == [("old", 4), ("new", 3)]
    plan = under_test.schedule()
    assert [advance.sequence for advance in plan.advances] == [old]
    assert plan.preempted == (new,)
    assert new.num_computed == 0
    assert new.block_table == []
    assert list(under_test.waiting) == [new]


def test_a_block_cannot_be_freed_twice() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.free(blocks)
    with pytest.raises(ValueError, match="freed twice"):
        pool.free(blocks)


def test_more_blocks_than_are_free_are_refused() -> None:
    with pytest.raises(ValueError, match="3 KV blocks asked for, 2 are free"):
        BlockPool(2).allocate(3)
