"""A runner whose tokens can be computed by hand, from what it finds in its KV cache.

The next token is a sum over the context as the cache holds it, so a wrong block table, a block that two
sequences write, or a prefill that skips a token gives wrong tokens.
"""

from collections.abc import Sequence

from cadenza.server.runner.base import RunnerLimits, SequenceSlice, StepBatch, StepResult

VOCABULARY = 97


def next_token(context: Sequence[int]) -> int:
    """The token after a context: 7 times the sum of its tokens plus its length, modulo 97."""
    return (7 * sum(context) + len(context)) % VOCABULARY


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    """The first `count` tokens after a prompt."""
    context = list(prompt)
    for _ in range(count):
        context.append(next_token(context))
    return context[len(prompt) :]


class CacheRunner:
    """Implements Runner on a dictionary for a cache; remembers the batches it was given."""

    def __init__(
        self, num_blocks: int = 64, block_size: int = 4, max_step_tokens: int = 16, max_sequences: int = 8
    ) -> None:
        self.limits = RunnerLimits(
            block_size=block_size,
            num_blocks=num_blocks,
            max_step_tokens=max_step_tokens,
            max_sequences=max_sequences,
            max_context=num_blocks * block_size,
        )
        self.batches: list[StepBatch] = []
        self.closed = False
        self._cache: dict[tuple[int, int], int] = {}

    def step(self, batch: StepBatch) -> StepResult:
        assert 0 < len(batch.slices) <= self.limits.max_sequences
        assert sum(len(part.token_ids) for part in batch.slices) <= self.limits.max_step_tokens
        self.batches.append(batch)
        for part in batch.slices:
            for offset, token_id in enumerate(part.token_ids):
                self._cache[self._place(part, part.start + offset)] = token_id
        return StepResult([self._choose(part) for part in batch.slices])

    def close(self) -> None:
        self.closed = True

    def _choose(self, part: SequenceSlice) -> int:
        if part.sampling is None:
            return -1
        length = part.start + len(part.token_ids)
        return next_token([self._cache[self._place(part, position)] for position in range(length)])

    def _place(self, part: SequenceSlice, position: int) -> tuple[int, int]:
        size = self.limits.block_size
        return part.block_table[position // size], position % size
