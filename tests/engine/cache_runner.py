"""A runner whose tokens can be computed by hand, from what it finds in its KV cache.

The next token is a sum over the context as the cache holds it, so a wrong block table, a block that two
sequences write, a copy that is missing, or a prefill that skips a token gives wrong tokens.
"""

from collections.abc import Callable, Sequence

from cadenza.server.engine.request import TokenLogprob
from cadenza.server.runner.base import (
    NO_TOKEN,
    NOT_FINITE,
    RunnerError,
    RunnerLimits,
    SequenceSlice,
    StepBatch,
    StepResult,
)

VOCABULARY = 97

NextToken = Callable[[Sequence[int], int], int]
"""The token after a context, for a choice."""


def next_token(context: Sequence[int], choice: int = 0) -> int:
    """The token after a context: 7 times its sum, plus its length, plus 31 times the choice, modulo 97."""
    return (7 * sum(context) + len(context) + 31 * choice) % VOCABULARY


def looping_token(context: Sequence[int], choice: int = 0) -> int:
    """The token three places back, so that texts go round in circles; now and then `next_token` instead."""
    if len(context) < 3 or (sum(context) + choice) % 5 == 0:
        return next_token(context, choice)
    return context[-3]


def continuation(
    prompt: Sequence[int], count: int, choice: int = 0, after: NextToken = next_token
) -> list[int]:
    """The first `count` tokens after a prompt."""
    context = list(prompt)
    for _ in range(count):
        context.append(after(context, choice))
    return context[len(prompt) :]


def logprob(context: Sequence[int], token_id: int, alternatives: int) -> TokenLogprob:
    """What the runner says of a token after a context: minus (its sum plus a hundredth of the token)."""
    best = tuple(((sum(context) + rank) % VOCABULARY, -float(rank)) for rank in range(alternatives))
    return TokenLogprob(token_id, -(sum(context) + token_id / 100), best)


def logprobs(tokens: Sequence[int], begin: int, alternatives: int) -> list[TokenLogprob]:
    """What the runner says of tokens[begin:], each after those before it."""
    return [logprob(tokens[:end], tokens[end], alternatives) for end in range(begin, len(tokens))]


class CacheRunner:
    """Implements Runner on a dictionary for a cache; remembers the batches it was given.

    `after` says which token follows a context. `fail_steps` makes the next steps raise, leaving nonsense
    behind. A context with the token `poison` in it gives no finite logits.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_step_tokens: int = 16,
        max_sequences: int = 8,
        poison: int = -1,
        after: NextToken = next_token,
        takes_drafts: bool = True,
    ) -> None:
        self.limits = RunnerLimits(
            block_size=block_size,
            num_blocks=num_blocks,
            max_step_tokens=max_step_tokens,
            max_sequences=max_sequences,
            max_context=num_blocks * block_size,
            takes_drafts=takes_drafts,
        )
        self.batches: list[StepBatch] = []
        self.fail_steps = 0
        self.closed = False
        self._poison = poison
        self._after = after
        self._cache: dict[tuple[int, int], int] = {}

    @property
    def computed_tokens(self) -> int:
        """Tokens of all steps so far."""
        return sum(len(part.token_ids) for batch in self.batches for part in batch.slices)

    def step(self, batch: StepBatch) -> StepResult:
        self._check(batch)
        self.batches.append(batch)
        for copy in batch.copies:
            for offset in range(self.limits.block_size):
                self._cache[copy.target, offset] = self._cache.get((copy.source, offset), -1)
        failing = self.fail_steps > 0
        for part in batch.slices:
            for offset, token_id in enumerate(part.token_ids):
                self._cache[self._place(part, part.start + offset)] = -1000 if failing else token_id
        if failing:
            self.fail_steps -= 1
            raise RunnerError("program 3 failed")
        choices = [self._choose(part) for part in batch.slices]
        token_ids = [found[-1] if found else NO_TOKEN for found in choices]
        accepted = {index: len(found) - 1 for index, found in enumerate(choices) if found}
        return StepResult(token_ids, self._logprobs(batch, choices), accepted)

    def close(self) -> None:
        self.closed = True

    def _check(self, batch: StepBatch) -> None:
        """What the contract promises of a batch."""
        assert 0 < len(batch.slices) <= self.limits.max_sequences
        assert sum(len(part.token_ids) for part in batch.slices) <= self.limits.max_step_tokens
        targets = [copy.target for copy in batch.copies]
        assert len(set(targets)) == len(targets)
        for index, copy in enumerate(batch.copies):
            assert copy.source not in targets[: index + 1]
        for part in batch.slices:
            end = part.start + len(part.token_ids)
            assert len(part.token_ids) > part.num_drafts
            assert not part.num_drafts or (self.limits.takes_drafts and part.sampling and not part.targets)
            assert end <= len(part.block_table) * self.limits.block_size
            written = {self._place(part, position)[0] for position in range(part.start, end)}
            for other in batch.slices:
                assert other is part or written.isdisjoint(other.block_table), "a shared block is written"

    def _context(self, part: SequenceSlice, length: int) -> list[int]:
        return [self._cache[self._place(part, position)] for position in range(length)]

    def _choose(self, part: SequenceSlice) -> list[int]:
        """Accepted drafts and the token behind them; nothing where none is asked for."""
        if part.sampling is None:
            return []
        context = self._context(part, part.start + len(part.token_ids))
        if part.sampling.needs_history:
            assert list(part.history) == context
        else:
            assert not part.history
        first = len(context) - part.num_drafts
        choices = [
            self._next(context[:length], part.sampling.choice) for length in range(first, len(context) + 1)
        ]
        return choices[: part.num_accepted(choices) + 1]

    def _next(self, context: Sequence[int], choice: int) -> int:
        return NOT_FINITE if self._poison in context else self._after(context, choice)

    def _logprobs(self, batch: StepBatch, choices: list[list[int]]) -> dict[int, list[TokenLogprob]]:
        found: dict[int, list[TokenLogprob]] = {}
        for index, (part, tokens) in enumerate(zip(batch.slices, choices, strict=True)):
            context = self._context(part, part.start + len(part.token_ids) - part.num_drafts)
            entries = [
                logprob(context[: part.start + offset + 1], target, part.target_alternatives)
                for offset, target in enumerate(part.targets)
            ]
            if part.sampling is not None and part.sampling.logprobs is not None:
                finite = [token_id for token_id in tokens if token_id >= 0]
                entries += logprobs([*context, *finite], len(context), part.sampling.logprobs)
            if entries:
                found[index] = entries
        return found

    def _place(self, part: SequenceSlice, position: int) -> tuple[int, int]:
        size = self.limits.block_size
        return part.block_table[position // size], position % size
