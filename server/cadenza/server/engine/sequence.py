"""One running completion: its tokens, how far they are computed, and its KV blocks."""

import dataclasses
import math

from cadenza.server.engine.request import Request, Timing
from cadenza.server.engine.text import TextAssembler


@dataclasses.dataclass(slots=True, eq=False)
class Sequence:
    """The engine's mutable state of a request. Times are seconds on its clock, NaN before they are known."""

    request: Request
    text: TextAssembler
    token_ids: list[int]
    """The prompt and what was generated."""
    num_computed: int = 0
    """How many of token_ids have their keys and values in the cache."""
    block_table: list[int] = dataclasses.field(default_factory=list)
    first_step_time: float = math.nan
    first_token_time: float = math.nan
    last_token_time: float = math.nan

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.request_id

    @property
    def num_pending(self) -> int:
        """Tokens to advance before the next one can be chosen: 1 in decode, more in prefill."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.request.prompt_token_ids)

    @property
    def started(self) -> bool:
        """Whether it has been in a step."""
        return not math.isnan(self.first_step_time)

    @property
    def timing(self) -> Timing:
        """The milestones so far."""
        return Timing(
            arrival=self.request.arrival_time,
            first_step=self.first_step_time,
            first_token=self.first_token_time,
            last_token=self.last_token_time,
        )
