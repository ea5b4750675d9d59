"""Blocks: counted, found again, taken in the right order."""

import pytest

from cadenza.server.engine.block_pool import BlockPool, KVCacheError


def test_a_block_cannot_be_freed_twice() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(ValueError, match=f"KV block {block} is freed twice"):
        pool.release(block)


def test_more_blocks_than_are_free_are_refused() -> None:
    pool = BlockPool(2)
    pool.allocate()
    pool.allocate()
    with pytest.raises(ValueError, match="none of 2 is free"):
        pool.allocate()


def test_a_shared_block_is_free_when_the_last_has_released_it() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.share(block)
    pool.release(block)
    assert pool.num_free == 0
    pool.release(block)
    assert pool.num_free == 1


def test_a_released_block_is_found_until_it_is_taken_for_something_else() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.register(b"key", block)
    pool.release(block)
    assert pool.find(b"key") == block
    assert pool.num_free == 1
    pool.allocate()
    assert pool.find(b"key") is None


def test_blank_blocks_are_taken_first_then_the_least_recently_used() -> None:
    pool = BlockPool(4)
    first, second, blank = (pool.allocate() for _ in range(3))
    pool.register(b"first", first)
    pool.register(b"second", second)
    for block in (first, second, blank):
        pool.release(block)
    pool.share(first)
    pool.release(first)
    assert [pool.allocate() for _ in range(4)][2:] == [second, first]


def test_the_first_block_of_a_content_stays_the_one_that_is_found() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.register(b"key", first)
    pool.register(b"key", second)
    assert pool.find(b"key") == first
    pool.release(second)
    assert pool.allocate() == second


def test_a_withdrawn_block_is_not_found() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.register(b"key", block)
    pool.withdraw(block)
    assert pool.find(b"key") is None


def test_the_check_finds_a_reference_that_no_table_has() -> None:
    pool = BlockPool(3)
    block = pool.allocate()
    pool.check([[block]])
    with pytest.raises(KVCacheError, match=rf"reference counts of KV blocks \[{block}\]"):
        pool.check([])
    with pytest.raises(KVCacheError, match="reference counts"):
        pool.check([[block], [block]])
