"""What a step is to do: which sequences advance, by how much."""

import dataclasses
from array import array

from cadenza.server.engine.sequence import Sequence

POSITIONS_PER_TOKEN = 256
"""Attention to so many positions takes about as long as all else that a token needs; measured on SmolLM2."""


@dataclasses.dataclass(frozen=True, slots=True)
class Advance:
    """Compute the next `num_tokens` pending tokens of a sequence, and check `drafts` behind them."""

    sequence: Sequence
    num_tokens: int
    drafts: "array[int]" = dataclasses.field(default_factory=lambda: array("i"))
    """Guesses of the tokens after the last pending one; only where the step reaches that."""

    @property
    def num_rows(self) -> int:
        """Tokens that the runner computes."""
        return self.num_tokens + len(self.drafts)


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """The work of one step."""

    advances: tuple[Advance, ...]
    preempted: tuple[Sequence, ...]
    """Sequences that lost their blocks and wait again, to be recomputed."""
