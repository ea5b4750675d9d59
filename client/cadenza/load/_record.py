"""What is noted of one request while it runs: times and counts only, so that noting costs little."""

import dataclasses
from typing import NamedTuple


class MessageTime(NamedTuple):
    """One message of a stream that carried tokens."""

    at: float
    """Seconds on time.perf_counter."""
    tokens: int


@dataclasses.dataclass(slots=True)
class RequestRecord:
    """One request. Times are seconds on time.perf_counter; `end` is 0 while it runs."""

    start: float
    messages: list[MessageTime] = dataclasses.field(default_factory=list)
    """Those with tokens, of all choices, in order of arrival."""
    end: float = 0.0
    """When the stream ended, well or not."""
    error: str = ""
    """The reason of a failure; empty for a request that succeeded."""

    @property
    def tokens(self) -> int:
        """Generated tokens that arrived."""
        return sum(message.tokens for message in self.messages)
