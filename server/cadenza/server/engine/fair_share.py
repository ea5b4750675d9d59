"""How much work each client has had, so that the one with the least for its weight is next.

The virtual token counter of "Fairness in Serving Large Language Models" (arXiv:2401.00588, section 4): a
client's counter grows by computed tokens over its weight. A client that comes back is lifted to the least of
the active ones, so that nobody saves up a claim by staying away.
"""

from collections.abc import Mapping

MAX_IDLE_CLIENTS = 1024
"""Clients without a sequence whose counters are remembered, because they had more than their share."""


class FairShare:
    """The counters. A client is active while it has sequences."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """A client that `weights` does not name has weight 1."""
        self._weights = dict(weights)
        self._served: dict[str, float] = {}
        self._active: dict[str, int] = {}

    def __len__(self) -> int:
        """Clients that have a counter."""
        return len(self._served)

    def served(self, client: str) -> float:
        """The counter of an active client."""
        return self._served[client]

    def enter(self, client: str) -> None:
        """One more sequence of the client."""
        if client not in self._active:
            least = min((self._served[name] for name in self._active), default=0.0)
            self._forget_idle(least)
            self._served.setdefault(client, least)
        self._active[client] = self._active.get(client, 0) + 1

    def leave(self, client: str) -> None:
        """One sequence of the client less."""
        self._active[client] -= 1
        if not self._active[client]:
            del self._active[client]
            if not self._active:
                self._served.clear()

    def charge(self, client: str, num_tokens: int) -> None:
        """The client gets that many tokens computed."""
        self._served[client] += num_tokens / self._weights.get(client, 1.0)

    def _forget_idle(self, least: float) -> None:
        """Drops idle clients that would be lifted to `least` anyway, and the lowest of too many others."""
        idle = [name for name in self._served if name not in self._active]
        ahead = sorted((name for name in idle if self._served[name] > least), key=self._served.__getitem__)
        for name in set(idle).difference(ahead[-MAX_IDLE_CLIENTS:]):
            del self._served[name]
