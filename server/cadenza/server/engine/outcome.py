"""From what the runner gives back to what it means for a sequence."""

import dataclasses
from collections.abc import Sequence as ReadOnlyList

from cadenza.server.engine.request import TokenLogprob
from cadenza.server.engine.schedule import Advance
from cadenza.server.runner.base import NO_TOKEN, NOT_FINITE, StepResult


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a step brought to one of its advances."""

    token_ids: ReadOnlyList[int]
    """The sequence's next tokens: accepted drafts, then what was chosen behind them. None in a prefill."""
    num_accepted: int
    """How many of token_ids are drafts."""
    not_finite: bool
    """The logits behind token_ids are not finite: there is no next token."""
    logprobs: ReadOnlyList[TokenLogprob]
    """As StepResult has them: of the slice's targets, then of token_ids."""

    @classmethod
    def of(cls, result: StepResult, index: int, advance: Advance) -> "Outcome":
        """Of the slice at `index`, which was made of this advance."""
        num_accepted = result.accepted.get(index, 0)
        token_ids = advance.drafts[:num_accepted].tolist()
        chosen = result.token_ids[index]
        if chosen not in (NO_TOKEN, NOT_FINITE):
            token_ids.append(chosen)
        return cls(token_ids, num_accepted, chosen == NOT_FINITE, result.logprobs.get(index, ()))
