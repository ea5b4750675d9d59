"""How long a step takes on some lanes of some machine, from what one and two lanes took on a measured one.

    seconds = serial + serial_row * R + weights / read + (row times of D and P, position time of C) * share

R rows (D decode, P prefill) attend to C positions. The serial times are Python's, in the engine's thread:
more lanes do not make them shorter. The rest depends on how a runner shares a step out:

- by rows: min(lanes, R // 2) lanes have work, or one; share is the busiest one's, ceil(R / lanes) / R. Each
  reads all weights; read is what one gets of the memory: what a core can read, or the node's bandwidth by the
  lanes. That lanes which share a cache read together once is left out: many lanes are estimated too slow.
- by panels: all lanes work on all rows, share is 1 / lanes, and every weight is read once: read is what the
  lanes read together. That lanes wait for each other, and that a product may have fewer panels than there are
  lanes, is left out: many lanes are estimated too fast.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tests.bench.fitting import fit_terms
from tests.bench.simulation.cost import StepShape

ROWS_WORTH_A_LANE = 2
"""The runner gives a lane at least so many rows."""
_FAR_OFF = 2.0
"""A step that took so many times its estimate was interrupted by other work on the machine."""


@dataclasses.dataclass(frozen=True, slots=True)
class LaneTimes:
    """What was measured, seconds each."""

    machine: str
    model: str
    by_panels: bool
    """How the measured runner shares a step out; else by rows."""
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
        used, share = self.lanes, 1 / self.lanes
        if not times.by_panels:
            used = max(1, min(self.lanes, rows // ROWS_WORTH_A_LANE))
            share = -(-rows // used) / rows
        work = (
            times.decode_row * shape.decode_rows
            + times.prefill_row * shape.prefill_rows
            + times.position * shape.positions
        )
        bandwidth = _lane_bandwidth(times.core_bandwidth, self.node_bandwidth, used)
        own_weights = times.weight_bytes * (1 / used if times.by_panels else 1)
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
    by_panels: bool,
    machine: str,
    model: str,
) -> LaneTimes:
    """From steps, and bytes read a second, on one lane and on two.

    What two lanes halve is a lane's work, what they do not is serial. The serial time of a step is what is
    left of its fixed part when the weights are read at the measured bandwidths.
    """
    one, two = (_coefficients(steps[lanes], lanes) for lanes in (1, 2))
    decode_row, prefill_row, position = (2 * (one[i] - two[i]) for i in (1, 2, 3))
    both_read = weight_bytes * (1 if by_panels else 2) / bandwidths[2]
    left = (one[0] - weight_bytes / bandwidths[1], two[0] - both_read)
    return LaneTimes(
        machine=machine,
        model=model,
        by_panels=by_panels,
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
    """Of 1, D, P and C, over steps in which all lanes have work and that nothing interrupted."""
    pairs = [(s, t) for s, t in steps if s.decode_rows + s.prefill_rows >= ROWS_WORTH_A_LANE * lanes]
    features = np.array([(1, s.decode_rows, s.prefill_rows, s.positions) for s, _ in pairs], np.float64)
    seconds = np.array([taken for _, taken in pairs])
    kept = seconds < _FAR_OFF * (features @ fit_terms(features, seconds))
    found: list[float] = fit_terms(features[kept], seconds[kept]).tolist()
    return found
