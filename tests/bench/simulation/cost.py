"""How long a step takes, from what is in it.

seconds = max(floor, fixed + decode_row * D + prefill_row * P + position * C), where D is the number of rows
that decode, P that of prefill rows, and C the sum over all rows of the positions that a row attends to. The
floor is what reading the weights once takes. The coefficients are measured by
`python -m tests.bench.simulate fit`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Protocol

from cadenza.server.runner.base import RunnerLimits, StepBatch


@dataclasses.dataclass(frozen=True, slots=True)
class StepShape:
    """What a step's time depends on."""

    decode_rows: int
    prefill_rows: int
    positions: int

    @classmethod
    def of(cls, batch: StepBatch) -> "StepShape":
        """One row and its drafts decode; a prompt's last token, where it comes alone, costs the same."""
        lengths = [len(part.token_ids) for part in batch.slices]
        decode_rows = sum(
            len(part.token_ids) for part in batch.slices if len(part.token_ids) - part.num_drafts == 1
        )
        positions = sum(
            length * part.start + length * (length + 1) // 2
            for part, length in zip(batch.slices, lengths, strict=True)
        )
        return cls(decode_rows, sum(lengths) - decode_rows, positions)


class StepCost(Protocol):
    """What a simulated runner asks."""

    def seconds(self, shape: StepShape) -> float:
        """Of one step."""


@dataclasses.dataclass(frozen=True, slots=True)
class CostModel:
    """Implements StepCost. Coefficients, seconds each."""

    fixed: float
    decode_row: float
    prefill_row: float
    position: float
    floor: float = 0.0

    def seconds(self, shape: StepShape) -> float:
        """The module's formula."""
        return max(
            self.floor,
            self.fixed
            + self.decode_row * shape.decode_rows
            + self.prefill_row * shape.prefill_rows
            + self.position * shape.positions,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredRunner:
    """A runner as the simulator knows it: its limits, its cost, and where that was measured."""

    machine: str
    model: str
    limits: RunnerLimits
    cost: CostModel

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "MeasuredRunner":
        """Reads what `save` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        limits, cost = RunnerLimits(**fields.pop("limits")), CostModel(**fields.pop("cost"))
        return cls(**fields, limits=limits, cost=cost)
