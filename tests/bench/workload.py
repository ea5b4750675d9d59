"""The work that is measured: prompts of random tokens from a seed, greedy, ends ignored."""

import random
from collections.abc import Sequence

SEED = 20_261_121
PROMPT_TOKENS = 64
NEW_TOKENS = 64
CONCURRENCY = (1, 8, 32)
LONG_PROMPT_TOKENS = 480


def prompts(count: int, length: int, vocabulary: int, seed: int = SEED) -> Sequence[tuple[int, ...]]:
    """`count` different prompts; special tokens, which lie first in the vocabulary, are left out."""
    source = random.Random(seed)
    return [tuple(source.randrange(100, vocabulary) for _ in range(length)) for _ in range(count)]
