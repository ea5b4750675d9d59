"""KV blocks: how many sequences use each, and which of the unused ones still hold findable content.

A block is referenced, or free. A free block is blank, or *kept*: its content is registered under a key, and
it stays findable until it is taken for something else, which happens to blank blocks first and then to kept
ones, least recently used first.
"""

import collections
from collections.abc import Iterable, Sequence


class KVCacheError(Exception):
    """The bookkeeping of KV blocks contradicts itself: nothing computed on it can be trusted."""


class BlockPool:
    """Hands out block ids 0 .. num_blocks - 1 and counts who refers to them."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._kept: collections.OrderedDict[int, None] = collections.OrderedDict()
        """Least recently used first."""
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody refers to, blank or kept."""
        return len(self._blank) + len(self._kept)

    def references(self, block: int) -> int:
        """How many refer to a block."""
        return self._references[block]

    def allocate(self) -> int:
        """Takes a free block, whose content is lost; it has one reference. Raises ValueError without one."""
        if self._blank:
            block = self._blank.pop()
        elif self._kept:
            block, _ = self._kept.popitem(last=False)
            self.withdraw(block)
        else:
            raise ValueError(f"a KV block is asked for, and none of {self.num_blocks} is free")
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Adds a reference to a block that is referenced or kept."""
        if not self._references[block]:
            del self._kept[block]
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Takes a reference away. Raises ValueError where there is none."""
        if not self._references[block]:
            raise ValueError(f"KV block {block} is freed twice")
        self._references[block] -= 1
        if not self._references[block]:
            if block in self._key_of:
                self._kept[block] = None
            else:
                self._blank.append(block)

    def register(self, key: bytes, block: int) -> None:
        """Makes the content of a referenced block findable; where the key has a block already, that stays."""
        if key not in self._block_of:
            self.withdraw(block)
            self._block_of[key] = block
            self._key_of[block] = key

    def withdraw(self, block: int) -> None:
        """A block's content cannot be found any more: it is going to change, or is not to be trusted.

        Only for blocks that are referenced or about to be.
        """
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]

    def find(self, key: bytes) -> int | None:
        """The block with the content that the key stands for."""
        return self._block_of.get(key)

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises KVCacheError unless the counts are those of the tables and every block is in its place."""
        counts = collections.Counter(block for table in tables for block in table)
        wrong = [block for block, held in enumerate(self._references) if held != counts[block]]
        if wrong:
            raise KVCacheError(f"reference counts of KV blocks {wrong[:8]} are not those of the block tables")
        free = sorted([*self._blank, *self._kept])
        if free != [block for block in range(self.num_blocks) if not counts[block]]:
            raise KVCacheError("the free KV blocks are not those that no block table names")
        if {block: key for key, block in self._block_of.items()} != self._key_of:
            raise KVCacheError("keys and KV blocks do not belong to each other")
        if any(block not in self._key_of for block in self._kept) or any(
            b in self._key_of for b in self._blank
        ):
            raise KVCacheError("a blank KV block can be found, or a kept one cannot")
