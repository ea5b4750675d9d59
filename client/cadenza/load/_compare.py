"""The same figures by two clocks: ours, and the server's or LoadGen's."""

import dataclasses
import statistics
from collections.abc import Sequence

from cadenza.load._record import RequestRecord
from cadenza.load._server_metrics import ServerMeans


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """One figure, seconds."""

    name: str
    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        """Ours above theirs, as a share of theirs."""
        return self.ours / self.theirs - 1 if self.theirs else 0.0


def compare_means(records: Sequence[RequestRecord], server: ServerMeans) -> tuple[Compared, ...]:
    """Means of all requests that succeeded, warm-up included, as the server's are.

    Ours hold the network and the generator's lag too. The server's hold what others asked of it meanwhile.
    """
    good = [record for record in records if not record.error]
    return tuple(
        Compared(f"{name} mean", statistics.fmean(own), theirs)
        for name, values, theirs in (
            ("TTFT", [record.ttft for record in good], server.ttft),
            ("TPOT", [record.tpot for record in good], server.tpot),
            ("latency", [record.latency for record in good], server.latency),
        )
        if theirs is not None and (own := [value for value in values if value is not None])
    )
