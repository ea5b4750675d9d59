"""What is noted of one request while it runs: times and counts only, so that noting costs little."""

import dataclasses
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class MessageTime(NamedTuple):
    """One message of a stream that carried tokens."""

    at: float
    """Seconds on the load's clock."""
    tokens: int


class MessageTimes:
    """The messages of a stream that carried tokens, in order of arrival: 12 bytes each."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, messages: Iterable[MessageTime] = ()) -> None:
        self._at, self._tokens = array("d"), array("I")
        for message in messages:
            self.append(*message)

    def append(self, at: float, tokens: int) -> None:
        """Notes one more."""
        self._at.append(at)
        self._tokens.append(tokens)

    @property
    def tokens(self) -> int:
        """Of all messages."""
        return sum(self._tokens)

    @property
    def first_at(self) -> float:
        """When the first came. Raises IndexError where there is none."""
        return self._at[0]

    def __iter__(self) -> Iterator[MessageTime]:
        return map(MessageTime, self._at, self._tokens)

    def __len__(self) -> int:
        return len(self._at)


@dataclasses.dataclass(slots=True)
class RequestRecord:
    """One request. Times are seconds on the load's clock, which is 0 when the load begins."""

    index: int
    """Which request of the workload it is."""
    scheduled: float
    """When it was due. In a closed loop: when its stream became free."""
    sent: float = 0.0
    """When the call was made."""
    messages: MessageTimes = dataclasses.field(default_factory=MessageTimes)
    end: float = 0.0
    """When the stream ended, well or not."""
    error: str = ""
    """The reason of a failure; empty for a request that succeeded."""
    queue: float | None = None
    """Seconds from arrival to the first step, by the server's clock; None where it did not say."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that the server found in its KV cache."""

    @property
    def tokens(self) -> int:
        """Generated tokens that arrived."""
        return self.messages.tokens

    @property
    def lag(self) -> float:
        """How late the generator was: sent - scheduled."""
        return self.sent - self.scheduled

    @property
    def latency(self) -> float:
        """End to end: end of the stream - scheduled arrival."""
        return self.end - self.scheduled

    @property
    def ttft(self) -> float | None:
        """Time to first token: first message with tokens - scheduled arrival; None without tokens."""
        return self.messages.first_at - self.scheduled if self.messages else None

    @property
    def tpot(self) -> float | None:
        """Time per output token: (latency - TTFT) / (tokens - 1); None with fewer than two tokens."""
        tokens = self.tokens
        if tokens < 2:
            return None
        return (self.end - self.messages.first_at) / (tokens - 1)
