"""Service level objectives: what a request must meet to count as good."""

import dataclasses

from cadenza.load._record import RequestRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Objectives:
    """Upper bounds in seconds; None asks nothing."""

    ttft: float | None = None
    tpot: float | None = None
    latency: float | None = None

    def met_by(self, record: RequestRecord) -> bool:
        """Whether a request succeeded within all bounds; a figure that it does not have misses none."""
        return not record.error and all(
            bound is None or value is None or value <= bound
            for value, bound in (
                (record.ttft, self.ttft),
                (record.tpot, self.tpot),
                (record.latency, self.latency),
            )
        )

    def __str__(self) -> str:
        bounds = {"TTFT": self.ttft, "TPOT": self.tpot, "latency": self.latency}
        return ", ".join(
            f"{name} <= {1000 * bound:g} ms" for name, bound in bounds.items() if bound is not None
        )
