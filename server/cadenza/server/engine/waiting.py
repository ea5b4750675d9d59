"""Who waits, and whose turn it is."""

from collections.abc import Iterator

from cadenza.server.engine.fair_share import FairShare
from cadenza.server.engine.sequence import Sequence


class WaitingQueue:
    """Sequences without a place in the running batch.

    First come those that are overdue, the oldest first: whatever the priorities and shares, what waits long
    enough comes to the front and stays there. Then the highest priority; in it, what has begun already; then
    the client that had the least for its weight; then the oldest.
    """

    def __init__(self, fair_share: FairShare) -> None:
        self._fair_share = fair_share
        self._sequences: dict[Sequence, None] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence, since: float) -> None:
        """Lets a sequence wait, as of `since`."""
        sequence.overdue_at = since + sequence.patience
        self._sequences[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence."""
        del self._sequences[sequence]

    def pop(self, sequence: Sequence, now: float) -> None:
        """Lets a sequence run."""
        del self._sequences[sequence]
        sequence.patience = sequence.overdue_at - now
        sequence.protected = sequence.patience <= 0
        sequence.begun = True

    def in_turn(self, now: float) -> list[Sequence]:
        """All of them, in the order in which it is their turn."""
        overdue = [sequence for sequence in self._sequences if sequence.overdue_at <= now]
        others = [sequence for sequence in self._sequences if sequence.overdue_at > now]
        return sorted(overdue, key=lambda sequence: sequence.order) + sorted(others, key=self._turn)

    def highest_priority(self) -> int | None:
        """The highest priority that waits."""
        return max((sequence.request.priority for sequence in self._sequences), default=None)

    def _turn(self, sequence: Sequence) -> tuple[int, bool, float, tuple[int, int]]:
        served = 0.0 if sequence.begun else self._fair_share.served(sequence.request.client)
        return -sequence.request.priority, not sequence.begun, served, sequence.order
