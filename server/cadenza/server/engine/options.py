"""What an operator may set about how the engine shares its work."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of an Engine. Raises ValueError where one is out of its range."""

    mixed_prefill_tokens: int = 12
    """Most tokens of long prompts in a step in which few sequences decode too: bounds how long streams pause.

    Where many decode, the step may have PREFILL_TOKENS_PER_DECODE for each of them (scheduler.py).
    """
    short_prompt_tokens: int = 512
    """A prompt of which no more has to be computed is short: it takes whatever the step still holds."""
    overdue_seconds: float = 30.0
    """What has waited longer than this goes before all priorities and shares, so that nothing starves."""
    prefix_cache: bool = True
    """Whether KV blocks are found again by later requests."""
    speculation_tokens: int = 8
    """Most drafts that a step checks for one sequence, guesses of its next tokens (drafts.py); 0 is none."""
    client_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Shares of clients in relation to each other; a client that is not named has 1."""

    def __post_init__(self) -> None:
        if self.mixed_prefill_tokens < 1:
            raise ValueError(f"mixed_prefill_tokens is {self.mixed_prefill_tokens}; it must be at least 1")
        if self.short_prompt_tokens < 0:
            raise ValueError(f"short_prompt_tokens is {self.short_prompt_tokens}; it must be at least 0")
        if self.speculation_tokens < 0:
            raise ValueError(f"speculation_tokens is {self.speculation_tokens}; it must be at least 0")
        if not self.overdue_seconds > 0:
            raise ValueError(f"overdue_seconds is {self.overdue_seconds}; it must be above 0")
        for client, weight in self.client_weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(
                    f"the weight of client {client!r} is {weight}; it must be finite and above 0"
                )
