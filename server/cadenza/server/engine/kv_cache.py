"""Who owns which KV block: blocks of a fixed number of tokens in one pool, a block table per sequence."""

from cadenza.server.engine.sequence import Sequence


class BlockPool:
    """Hands out block ids 0 .. num_blocks - 1, each to one owner at a time."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._owned = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Takes `count` blocks out of the pool; the caller has seen that num_free suffices."""
        if count > len(self._free):
            raise ValueError(f"{count} KV blocks asked for, {len(self._free)} are free")
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._owned[block] = 1
        return blocks

    def free(self, blocks: list[int]) -> None:
        """Gives blocks back."""
        for block in blocks:
            if not self._owned[block]:
                raise ValueError(f"KV block {block} is freed twice")
            self._owned[block] = 0
            self._free.append(block)


class KVCache:
    """Block tables: gives each sequence the blocks that its tokens need."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._pool = BlockPool(num_blocks)

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return self._pool.num_blocks

    @property
    def num_used(self) -> int:
        """Blocks that belong to a sequence."""
        return self._pool.num_blocks - self._pool.num_free

    def can_hold(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the free blocks suffice for the sequence to hold its first `num_tokens` tokens."""
        return self._missing(sequence, num_tokens) <= self._pool.num_free

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Lets the sequence hold its first `num_tokens` tokens; False, and no change, where blocks lack."""
        if not self.can_hold(sequence, num_tokens):
            return False
        sequence.block_table += self._pool.allocate(max(0, self._missing(sequence, num_tokens)))
        return True

    def release(self, sequence: Sequence) -> None:
        """Takes the sequence's blocks back; nothing of it is computed any more."""
        self._pool.free(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = 0

    def _missing(self, sequence: Sequence, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size) - len(sequence.block_table)
