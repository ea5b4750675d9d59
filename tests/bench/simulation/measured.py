"""The same traces on the real engine and the LiteRT runner, in real time; and the cost model fitted to it."""

import dataclasses
import threading
import time
from collections.abc import Iterable, Sequence

import numpy as np
from tests.bench.fitting import fit_terms
from tests.bench.simulation.cost import CostModel, StepShape
from tests.bench.simulation.recorder import Figures, Recorder
from tests.bench.simulation.synthetic import Workload, synthetic_trace
from tests.bench.simulation.trace import VOCABULARY, TraceRequest, engine_requests

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Drain, Submit
from cadenza.server.runner.base import Runner, StepBatch, StepResult

_FAR_OFF = 2.0
"""A step that took so many times its estimate was interrupted by other work on the machine."""


class ShapeRecorder:
    """A runner that notes the shape of every step."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.limits = runner.limits
        self.shapes: list[StepShape] = []

    def step(self, batch: StepBatch) -> StepResult:
        """Notes the shape and lets the runner work."""
        self.shapes.append(StepShape.of(batch))
        return self._runner.step(batch)

    def close(self) -> None:
        """The runner belongs to the caller."""


@dataclasses.dataclass(frozen=True, slots=True)
class RealReplay:
    """A replay in real time."""

    figures: Figures
    steps: list[tuple[StepShape, float]]
    """Each step's shape and the seconds it took, scheduling included."""


def replay(trace: Sequence[TraceRequest], runner: Runner, options: EngineOptions, seed: int) -> RealReplay:
    """Submits each request at its time and returns when all have ended."""
    recording = ShapeRecorder(runner)
    requests = engine_requests(trace, seed)
    origin = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - origin

    recorder = Recorder(clock)
    engine = Engine(recording, [b"x"] * VOCABULARY, options=options, clock=clock, report=recorder.report)
    thread = threading.Thread(target=engine.run)
    thread.start()
    for request in requests:
        time.sleep(max(0.0, request.arrival_time - clock()))
        engine.commands.put(Submit(request))
    engine.commands.put(Drain())
    thread.join()
    steps = list(zip(recording.shapes, recorder.step_seconds, strict=True))
    return RealReplay(recorder.figures(), steps)


def calibration_traces(seed: int) -> list[list[TraceRequest]]:
    """Traces with steps of many shapes: 1 to 64 streams at once, long contexts, prompts among streams."""
    together = [
        [TraceRequest(0.0, 32 + 8 * (index % 5), 40) for index in range(count)]
        for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    ]
    contexts = [
        [TraceRequest(0.0, length, 30) for _ in range(count)]
        for length, count in ((600, 8), (1200, 4), (2000, 1), (2000, 4))
    ]
    mixed = [
        synthetic_trace(Workload(requests=40, rate=rate, long_share=share), seed)
        for rate, share in ((4.0, 0.0), (8.0, 0.0), (4.0, 0.1))
    ]
    return together + contexts + mixed


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients and how far they are off: |estimate / measured - 1| over all steps."""

    cost: CostModel
    steps: int
    left_out: int
    """Steps that took more than twice the first estimate; not in the coefficients, but in the errors."""
    median_error: float
    p90_error: float
    total: float
    """Sum of the estimates / sum of the measured times."""


def fit(steps: Iterable[tuple[StepShape, float]]) -> Fit:
    """Least squares of the relative error, twice: the second time without interrupted steps.

    The floor is the median step of one row that decodes with less than 200 positions.
    """
    pairs = list(steps)
    features = np.array([(1, s.decode_rows, s.prefill_rows, s.positions) for s, _ in pairs], np.float64)
    seconds = np.array([taken for _, taken in pairs])
    first = fit_terms(features, seconds)
    kept = seconds < _FAR_OFF * (features @ first)
    coefficients = fit_terms(features[kept], seconds[kept])
    alone = [t for s, t in pairs if s.decode_rows == 1 and not s.prefill_rows and s.positions < 200]
    fixed, decode_row, prefill_row, position = coefficients.tolist()
    floor = float(np.median(alone)) if alone else 0.0
    cost = CostModel(fixed, decode_row, prefill_row, position, floor)
    estimates = np.array([cost.seconds(shape) for shape, _ in pairs])
    errors = np.abs(estimates / seconds - 1)
    return Fit(
        cost=cost,
        steps=len(pairs),
        left_out=int(np.sum(~kept)),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        total=float(estimates.sum() / seconds.sum()),
    )
