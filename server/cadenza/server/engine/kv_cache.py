"""Block tables: which KV blocks a sequence has, which it shares, and which it finds again.

Full blocks are found by a key that stands for all tokens up to the block's end, so a block is reused only
where everything before it is the same. What several sequences share is never written: whoever must write
into a shared block gets a copy of it first.
"""

import collections
import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as ReadOnlyList

from cadenza.server.engine.block_pool import BlockPool, KVCacheError
from cadenza.server.engine.sequence import Sequence
from cadenza.server.runner.base import BlockCopy

_KEY_BYTES = 16


class KVCache:
    """Gives each sequence the blocks that its tokens need."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        """With `prefix_cache` False no block is registered, so none is found again."""
        self.block_size = block_size
        self._prefix_cache = prefix_cache
        self._pool = BlockPool(num_blocks)

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return self._pool.num_blocks

    @property
    def num_used(self) -> int:
        """Blocks that belong to sequences."""
        return self._pool.num_blocks - self._pool.num_free

    def looks_up(self, sequence: Sequence) -> bool:
        """Whether the sequence may find blocks that hold its first tokens."""
        return self._prefix_cache and sequence.request.cache_prompt and sequence.num_skippable > 0

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks with the longest beginning of a sequence that has none; they are not taken yet."""
        found: list[int] = []
        if sequence.block_table or not self.looks_up(sequence):
            return found
        for key in self._keys(sequence, sequence.num_skippable // self.block_size):
            block = self._pool.find(key)
            if block is None:
                break
            found.append(block)
        return found

    def attach(self, sequence: Sequence, found: list[int]) -> None:
        """Lets the sequence begin with the blocks that `find` has found: their tokens are computed."""
        for block in found:
            self._pool.share(block)
        sequence.block_table.extend(found)
        sequence.num_computed += len(found) * self.block_size
        sequence.num_registered += len(found)

    def fits(
        self,
        sequence: Sequence,
        found: ReadOnlyList[int],
        released: Iterable[Sequence] = (),
        *,
        reserved: int = 0,
    ) -> bool:
        """Whether the sequence could hold all its tokens, beginning with the blocks of `find`.

        The blocks of `released` count as given back; `reserved` free blocks are meant for others.
        """
        given_back = collections.Counter(block for other in released for block in other.block_table)
        free = self._pool.num_free + self._left_free(given_back, given_back)
        need = self.missing(sequence) - len(found)
        return need + reserved <= free - self._left_free(found, given_back)

    def missing(self, sequence: Sequence) -> int:
        """Blocks that the sequence still needs to hold all its tokens."""
        return self._missing(sequence, len(sequence.token_ids))

    def releasable(self, sequences: Iterable[Sequence]) -> bool:
        """Whether releasing all of the sequences would free a block."""
        held = collections.Counter(block for sequence in sequences for block in sequence.block_table)
        return self._left_free(held, held) > 0

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Lets the sequence write the tokens from num_computed on, up to its first `num_tokens`.

        False, and no change, where the free blocks do not suffice.
        """
        if self._missing(sequence, num_tokens) > self._pool.num_free:
            return False
        self._make_writable(sequence)
        table = sequence.block_table
        for _ in range(self._blocks(num_tokens) - len(table)):
            table.append(self._pool.allocate())
        return True

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """A step has computed that many more tokens: blocks that became full can be found from now on."""
        sequence.num_computed += num_tokens
        sequence.block_copy = None
        full = sequence.num_computed // self.block_size
        if full == sequence.num_registered:
            return
        if self._prefix_cache and sequence.request.cache_prompt:
            keys = self._keys(sequence, full)
            for index in range(sequence.num_registered, full):
                self._pool.register(keys[index], sequence.block_table[index])
        sequence.num_registered = full

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets a new choice share the blocks of its prompt's tokens, all but the last one."""
        shared = child.prompt_length - 1
        child.block_table = parent.block_table[: self._blocks(shared)]
        child.num_computed = shared
        child.num_registered = shared // self.block_size
        for block in child.block_table:
            self._pool.share(block)

    def release(self, sequence: Sequence) -> None:
        """Takes the sequence's blocks back; nothing of it is computed any more."""
        for block in reversed(sequence.block_table):
            self._pool.release(block)
        del sequence.block_table[:]
        sequence.block_copy = None
        sequence.num_computed = 0
        sequence.num_registered = 0

    def distrust(self, sequence: Sequence) -> None:
        """Nobody else will find the blocks that the sequence has."""
        for block in sequence.block_table:
            self._pool.withdraw(block)

    def borrow(self) -> int:
        """A free block for a trial; `give_back` it."""
        return self._pool.allocate()

    def give_back(self, block: int) -> None:
        """Ends a trial."""
        self._pool.release(block)

    def check(self, sequences: ReadOnlyList[Sequence]) -> None:
        """Raises KVCacheError unless the books agree with what these sequences, which are all, hold."""
        self._pool.check([sequence.block_table for sequence in sequences])
        for sequence in sequences:
            if sequence.num_computed > len(sequence.block_table) * self.block_size:
                raise KVCacheError(
                    f"{sequence.request_id} has {sequence.num_computed} computed tokens in "
                    f"{len(sequence.block_table)} blocks of {self.block_size}"
                )

    def _make_writable(self, sequence: Sequence) -> None:
        """The block of the first token to compute, where it exists, becomes the sequence's own."""
        index = sequence.num_computed // self.block_size
        if index >= len(sequence.block_table):
            return
        block = sequence.block_table[index]
        if self._pool.references(block) == 1:
            self._pool.withdraw(block)
            return
        own = self._pool.allocate()
        self._pool.release(block)
        sequence.block_table[index] = own
        sequence.block_copy = BlockCopy(source=block, target=own)

    def _missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks to allocate before the sequence can write up to its first `num_tokens` tokens."""
        table = sequence.block_table
        index = sequence.num_computed // self.block_size
        shared = index < len(table) and self._pool.references(table[index]) > 1
        return self._blocks(num_tokens) - len(table) + shared

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _left_free(self, blocks: Iterable[int], given_back: Mapping[int, int]) -> int:
        """How many of these blocks are free once `given_back` references of each are released."""
        return sum(self._pool.references(block) == given_back.get(block, 0) for block in blocks)

    def _keys(self, sequence: Sequence, count: int) -> list[bytes]:
        """Keys of the first `count` blocks: each is a digest of the key before it and of its tokens."""
        keys, size = sequence.block_keys, self.block_size
        while len(keys) < count:
            tokens = sequence.token_ids[len(keys) * size : (len(keys) + 1) * size]
            before = keys[-1] if keys else b""
            keys.append(hashlib.blake2b(before + tokens.tobytes(), digest_size=_KEY_BYTES).digest())
        return keys[:count]
