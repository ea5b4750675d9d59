"""Which guesses of their next tokens the decoding sequences of a step may have checked.

A drafted row costs what any row costs; what it saves, if the guess is right, is its share of a later step.
With STEP_COST for the step itself and a cost for each row, both in rows, a step brings
useful rows / (STEP_COST + cost of all rows), where a draft is useful with the probability that it is right.
A draft is worth its row where it raises that quotient: many are in a small step, few in a large one.
"""

import dataclasses
from array import array
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as ReadOnlyList

from cadenza.server.engine.drafts import Drafter
from cadenza.server.engine.schedule import POSITIONS_PER_TOKEN, Advance
from cadenza.server.engine.sequence import Sequence

STEP_COST = 6.0
"""What a step costs before its first row, mostly to read the weights.

Measured on SmolLM2 it is about 5 on one lane and 20 on two. On two 6 brings nearly what 20 does; on one 20
would lose.
"""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Guess:
    """What may follow a decoding sequence."""

    index: int
    """Of its advance in the step."""
    drafts: "array[int]"
    hit_rate: float
    row_cost: float

    def offers(self) -> Iterator[tuple[float, "_Guess"]]:
        """Each draft with the probability that it is right: all before it must be right too."""
        chance = 1.0
        for _ in self.drafts:
            chance *= self.hit_rate
            yield chance, self


class Speculation:
    """Adds drafts to the decoding sequences of a step. Drafts take no KV block, but room that is there."""

    def __init__(self, most_drafts: int, block_size: int) -> None:
        """At most so many drafts for a sequence and step; with 0 nothing is ever added."""
        self._most_drafts = most_drafts
        self._block_size = block_size

    def add_drafts(self, advances: list[Advance], room: int) -> list[Advance]:
        """The same advances with the drafts that are worth it; `room` more rows fit into the step."""
        if not self._most_drafts:
            return advances
        decoding = [(index, one.sequence) for index, one in enumerate(advances) if one.sequence.is_decoding]
        guesses = [guess for index, sequence in decoding if (guess := self._guess(index, sequence)).drafts]
        if not guesses:
            return advances
        extended = list(advances)
        for guess, count in _worthwhile(advances, guesses, room).items():
            extended[guess.index] = dataclasses.replace(advances[guess.index], drafts=guess.drafts[:count])
        return extended

    def _guess(self, index: int, sequence: Sequence) -> _Guess:
        """Not past the sequence's last token, and within its last KV block."""
        token_ids, drafter = sequence.token_ids, sequence.drafter
        if drafter is None:
            drafter = sequence.drafter = Drafter(sequence.prompt_length)
        drafter.read(token_ids)
        left = sequence.request.max_tokens - sequence.num_generated - 1
        room = len(sequence.block_table) * self._block_size - len(token_ids)
        drafts = drafter.guess(token_ids, min(self._most_drafts, left, room))
        return _Guess(index, drafts, drafter.hit_rate, _row_cost(sequence))


def _worthwhile(advances: ReadOnlyList[Advance], guesses: ReadOnlyList[_Guess], room: int) -> Counter[_Guess]:
    """How many drafts of each guess to take.

    The most probable ones come first. Each that is taken raises the quotient, so what was refused once would
    be refused again; and of one guess the first drafts are taken, as each is less probable than the last.
    """
    useful = float(sum(advance.num_tokens for advance in advances))
    cost = STEP_COST + sum(advance.num_tokens * _row_cost(advance.sequence) for advance in advances)
    offers = [offer for guess in guesses for offer in guess.offers()]
    offers.sort(key=lambda offer: -offer[0])
    taken: Counter[_Guess] = Counter()
    for chance, guess in offers[:room]:
        if chance * cost > useful * guess.row_cost:
            taken[guess] += 1
            useful += chance
            cost += guess.row_cost
    return taken


def _row_cost(sequence: Sequence) -> float:
    """What one more row of the sequence costs, in rows that attend to nothing."""
    return 1 + sequence.num_computed / POSITIONS_PER_TOKEN
