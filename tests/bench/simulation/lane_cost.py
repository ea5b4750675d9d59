"""How long a step takes on some lanes of some machine, from what one and two lanes took on a measured one.

    seconds = serial + serial_row * R + weights / read + (row times of D and P, position time of C) * share

R rows (D decode, P prefill) attend to C positions. The serial times are Python's, in the engine's thread:
more lanes do not make them shorter. The rest depends on how the runner shares the step out:

- by rows, as the LiteRT runner always does: min(lanes, R // 2) lanes have work, or one; share is the busiest
  one's, ceil(R / lanes) / R. Each reads all weights; read is what one gets of the memory: what a core can
  read, or the node's bandwidth by the lanes. That lanes which share a cache read together once is left out,
  so many lanes are estimated too slow.
- as a team, as the native runner does where a lane would have fewer than 8 rows: all lanes work on all rows,
  share is 1 / lanes, and every weight is read once: read is what all lanes read together. That lanes meet
  after every product, and that a product may have few panels to share, is left out, so many lanes are
  estimated too fast.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tests.bench.fitting import fit_terms
from tests.bench.simulation.cost import StepShape

ROWS_WORTH_A_LANE = 2
"""The LiteRT runner gives a lane at least so many rows."""
ROWS_FOR_ONE = 8
"""With fewer for each lane the native runner's lanes work as a team."""
_FAR_OFF = 2.0
"""A step that took so many times its estimate was interrupted by other work on the machine."""


@dataclasses.dataclass(frozen=True, slots=True)
class LaneTimes:
    """What was measured, seconds each."""

    machine: str
    model: str
    native: bool
    """Whether the native runner was measured; else the LiteRT runner."""
    weight_bytes: int
    """Of the model: what is read in a step."""
    core_bandwidth: float
    """Bytes a second that one core reads."""
    node_bandwidth: float
    """Bytes a second that the measured machine's cores read together."""
    serial: float
    """Of a step, whatever is in it."""
    serial_row: float
    decode_row: float
    """Of a lane."""
    prefill_row: float
    position: float

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "LaneTimes":
        """Reads what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclasses.dataclass(frozen=True, slots=True)
class LaneCost:
    """Implements StepCost: `lanes` lanes on one node of a machine whose cores are as the measured ones."""

    times: LaneTimes
    lanes: int
    node_bandwidth: float

    def seconds(self, shape: StepShape) -> float:
        """The module's formula."""
        times, rows = self.times, shape.decode_rows + shape.prefill_rows
        as_team = times.native and rows < ROWS_FOR_ONE * self.lanes
        used = self.lanes if times.native else max(1, min(self.lanes, rows // ROWS_WORTH_A_LANE))
        share = 1 / used if as_team else -(-rows // used) / rows
        work = (
            times.decode_row * shape.decode_rows
            + times.prefill_row * shape.prefill_rows
            + times.position * shape.positions
        )
        bandwidth = _lane_bandwidth(times.core_bandwidth, self.node_bandwidth, used)
        own_weights = times.weight_bytes * (1 / used if as_team else 1)
        return times.serial + times.serial_row * rows + own_weights / bandwidth + work * share


def _lane_bandwidth(core: float, node: float, lanes: int) -> float:
    """Bytes a second that each of some lanes reads."""
    return min(core, node / lanes)


Steps = Iterable[tuple[StepShape, float]]
"""Shapes of steps and the seconds that they took."""


def fit_lanes(
    steps: Mapping[int, Steps],
    bandwidths: Mapping[int, float],
    weight_bytes: int,
    *,
    native: bool,
    machine: str,
    model: str,
) -> LaneTimes:
    """From steps, and bytes read a second, on one lane and on two.

    What two lanes halve is a lane's work, what they do not is serial. The serial time of a step is what is
    left of its fixed part when the weights are read at the measured bandwidths.
    """
    one, two = (_coefficients(steps[lanes], lanes) for lanes in (1, 2))
    decode_row, prefill_row, position = (2 * (one[i] - two[i]) for i in (1, 2, 3))
    left = (one[0] - weight_bytes / bandwidths[1], two[0] - 2 * weight_bytes / bandwidths[2])
    return LaneTimes(
        machine=machine,
        model=model,
        native=native,
        weight_bytes=weight_bytes,
        core_bandwidth=bandwidths[1],
        node_bandwidth=bandwidths[2],
        serial=max(0.0, sum(left) / 2),
        serial_row=max(0.0, 2 * two[1] - one[1]),
        decode_row=decode_row,
        prefill_row=prefill_row,
        position=position,
    )


def _coefficients(steps: Steps, lanes: int) -> list[float]:
    """Of 1, D, P and C, over steps that any runner shares out by rows and that nothing interrupted."""
    pairs = [(s, t) for s, t in steps if s.decode_rows + s.prefill_rows >= ROWS_FOR_ONE * lanes]
    features = np.array([(1, s.decode_rows, s.prefill_rows, s.positions) for s, _ in pairs], np.float64)
    seconds = np.array([taken for _, taken in pairs])
    kept = seconds < _FAR_OFF * (features @ fit_terms(features, seconds))
    found: list[float] = fit_terms(features[kept], seconds[kept]).tolist()
    return found
