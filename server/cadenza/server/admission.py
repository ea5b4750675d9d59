"""The queue before the engine: who may enter, and what waits there for its first step, counted.

Bounded by requests, prompt tokens and bytes. A request takes its place before its prompt is tokenized, so a
full queue refuses without that work, and so many prompts are read at once as may wait.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping

from cadenza.server.errors import QueueFullError
from cadenza.server.pace import Ahead

_RECENT_ENDS = 64
_RETRY_SECONDS = (0.1, 30.0)
_RETRY_SECONDS_UNKNOWN = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for its first step; more is refused."""

    requests: int
    prompt_tokens: int
    bytes: int
    """Of request messages."""


@dataclasses.dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a request before its prompt is read. Times are seconds on the engine's clock."""

    request_id: str
    time: float
    deadline: float
    size: int
    """Bytes of the request's message."""
    client: str = ""
    priority: int = 0


@dataclasses.dataclass(eq=False, slots=True)
class Place:
    """One request's place in the queue."""

    arrival: Arrival
    prompt_tokens: int = 0
    """0 while the prompt is being read."""
    sure_tokens: int = 1
    """Tokens per sequence that its request certainly generates."""
    kept: bool = False
    """Whether its request was submitted and waits on, after its prompt was read."""


@dataclasses.dataclass(slots=True)
class _Share:
    """What waits of one priority and client, prompts read."""

    requests: int = 0
    tokens: int = 0


class AdmissionQueue:
    """Counts the places that are taken. One alone may exceed tokens and bytes: it waits for nobody."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._places: set[Place] = set()
        self._bytes = 0
        self._tokens = 0
        self._shares: dict[tuple[int, str], _Share] = collections.defaultdict(_Share)
        """By priority and client."""
        self._recent_ends: collections.deque[float] = collections.deque(maxlen=_RECENT_ENDS)

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, arrival: Arrival, now: float) -> Place:
        """Takes a place. Raises QueueFullError."""
        requests, size = len(self._places), self._bytes + arrival.size
        if requests >= self._limits.requests:
            raise self._full(f"{requests} requests wait already, the most that may", now)
        if requests and size > self._limits.bytes:
            raise self._full(f"with this request {size} bytes would wait, and {self._limits.bytes} may", now)
        if self._tokens >= self._limits.prompt_tokens:
            raise self._full(f"{self._tokens} prompt tokens wait already, the most that may", now)
        place = Place(arrival)
        self._places.add(place)
        self._bytes += arrival.size
        return place

    def fill(self, place: Place, prompt_tokens: int, now: float) -> None:
        """Says how long the place's prompt is. Raises QueueFullError; the place stays taken."""
        tokens = self._tokens + prompt_tokens
        if len(self._places) > 1 and tokens > self._limits.prompt_tokens:
            raise self._full(
                f"with this prompt {tokens} prompt tokens would wait, and {self._limits.prompt_tokens} may",
                now,
            )
        place.prompt_tokens = prompt_tokens
        self._tokens += prompt_tokens
        share = self._shares[place.arrival.priority, place.arrival.client]
        share.requests += 1
        share.tokens += prompt_tokens

    def leave(self, place: Place) -> None:
        """Gives the place back; a second time does nothing."""
        if place not in self._places:
            return
        self._places.remove(place)
        self._bytes -= place.arrival.size
        if place.prompt_tokens:
            key = place.arrival.priority, place.arrival.client
            self._tokens -= place.prompt_tokens
            self._shares[key].requests -= 1
            self._shares[key].tokens -= place.prompt_tokens
            if not self._shares[key].requests:
                del self._shares[key]

    def ended(self, now: float) -> None:
        """A request that was once in the queue has ended: the pace that RetryInfo is made of."""
        self._recent_ends.append(now)

    def ahead(self, arrival: Arrival, prompt_tokens: int, weights: Mapping[str, float]) -> Ahead:
        """What waits and is computed before a request with so long a prompt, or beside it.

        All of higher priority and the client's own of the same; of every other client of the same priority as
        much as its fair share allows in that time, in proportion to the `weights` (1 where there is none).
        """
        own = self._shares.get((arrival.priority, arrival.client), _Share())
        requests, tokens = float(own.requests), float(own.tokens)
        own_weight = weights.get(arrival.client, 1.0)
        for (priority, client), share in self._shares.items():
            if priority > arrival.priority:
                requests, tokens = requests + share.requests, tokens + share.tokens
            elif priority == arrival.priority and client != arrival.client:
                ratio = weights.get(client, 1.0) / own_weight
                requests += min(share.requests, (own.requests + 1) * ratio)
                tokens += min(share.tokens, (own.tokens + prompt_tokens) * ratio)
        return Ahead(requests, tokens)

    def _full(self, what: str, now: float) -> QueueFullError:
        return QueueFullError(f"{what}; try again later", self._retry_after(now))

    def _retry_after(self, now: float) -> float:
        """Seconds until half of what waits has begun, at the pace at which requests ended of late."""
        if len(self._recent_ends) < 2:
            return _RETRY_SECONDS_UNKNOWN
        per_request = (now - self._recent_ends[0]) / len(self._recent_ends)
        least, most = _RETRY_SECONDS
        return min(most, max(least, per_request * math.ceil(len(self._places) / 2)))
