"""Guesses a sequence's next tokens from its own past, for a step to check: prompt lookup.

Where the last tokens stood before, what followed them then may follow them now: in code, in summaries, in
answers that quote their prompt, in loops. It is the match of LZ77 (Ziv and Lempel 1977) in the place of the
draft model of speculative decoding (Leviathan et al., arXiv:2211.17192).
"""

from array import array
from collections.abc import Sequence

MATCH_TOKENS = 2
"""So many last tokens must have stood before."""
MOST_READ = 1024
"""Tokens that one call takes in, so that a long prompt does not hold a step up."""
FIRST_HIT_RATE = 0.5
"""What a sequence's guesses are believed to be worth before the first was checked."""
_WEIGHT = 1 / 8
"""Of the newest guess in the hit rate."""
_TOKEN_BITS = 32
_KEY_MASK = (1 << (_TOKEN_BITS * MATCH_TOKENS)) - 1


class Drafter:
    """Reads one sequence's tokens as they come: less than a microsecond and about 100 bytes for each.

    Every token read is held against the guess that stood for it, whether or not that was put into a step. So
    the hit rate is known before anything was spent on guesses.
    """

    def __init__(self, prompt_length: int) -> None:
        self.hit_rate = FIRST_HIT_RATE
        """How often the next token was what was guessed of late, over generated tokens that had a guess."""
        self._prompt_length = prompt_length
        self.num_read = 0
        """Tokens taken in."""
        self._key = 0
        """Of the last MATCH_TOKENS tokens read: their ids side by side."""
        self._behind: dict[int, int] = {}
        """By key: the index of the token behind its last occurrence."""
        self._source = 0
        """The index of the token that is expected next; 0 where nothing is."""

    def read(self, token_ids: Sequence[int]) -> None:
        """Takes in what is new of the sequence's tokens, at most MOST_READ of them."""
        end = min(len(token_ids), self.num_read + MOST_READ)
        for index in range(self.num_read, end):
            self._take(token_ids, index)
        self.num_read = end

    def guess(self, token_ids: Sequence[int], count: int) -> "array[int]":
        """At most `count` tokens that may follow; none where no match is known, or not all was read yet.

        A match that reaches the end goes on with the guess itself, as loops do.
        """
        drafts = array("i")
        length = len(token_ids)
        if self._source and self.num_read == length:
            for index in range(self._source, self._source + count):
                drafts.append(token_ids[index] if index < length else drafts[index - length])
        return drafts

    def _take(self, token_ids: Sequence[int], index: int) -> None:
        token_id = token_ids[index]
        if self._source:
            hit = token_ids[self._source] == token_id
            if index >= self._prompt_length:
                self.hit_rate += _WEIGHT * (hit - self.hit_rate)
            self._source = self._source + 1 if hit else 0
        self._key = (self._key << _TOKEN_BITS | token_id) & _KEY_MASK
        if index + 1 >= MATCH_TOKENS:
            self._source = self._source or self._behind.get(self._key, 0)
            self._behind[self._key] = index + 1
