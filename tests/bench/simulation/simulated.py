"""The real engine and scheduler on a runner that computes nothing: its steps move a virtual clock.

What is left out: the RPC side with its bounded queue and admission, and whatever else runs on the machine. A
request that arrives during a step enters the engine at the step's end, as in reality.
"""

import collections
from collections.abc import Sequence

from tests.bench.simulation.cost import StepCost, StepShape
from tests.bench.simulation.recorder import Figures, Recorder
from tests.bench.simulation.trace import LEAST_TOKEN, VOCABULARY, TraceRequest, engine_requests

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Submit
from cadenza.server.runner.base import NO_TOKEN, RunnerLimits, SequenceSlice, StepBatch, StepResult


class SimulationError(Exception):
    """The engine made a step in which nothing happened, so the simulation would never end."""


class VirtualClock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedRunner:
    """Implements runner.base.Runner: a step takes what the cost model says, on the virtual clock."""

    def __init__(self, limits: RunnerLimits, cost: StepCost, clock: VirtualClock) -> None:
        self.limits = limits
        self._cost = cost
        self._clock = clock

    def step(self, batch: StepBatch) -> StepResult:
        """Moves the clock."""
        self._clock.now += self._cost.seconds(StepShape.of(batch))
        token_ids: list[int] = []
        accepted: dict[int, int] = {}
        for index, part in enumerate(batch.slices):
            choices = _choices(part)
            accepted[index] = part.num_accepted(choices)
            token_ids.append(choices[accepted[index]])
        return StepResult(token_ids, accepted=accepted)

    def close(self) -> None:
        """Holds nothing."""


def _choices(part: SequenceSlice) -> list[int]:
    """Some token behind the last right one and behind each draft.

    It depends on the one before it and its position, so that continuations differ.
    """
    if part.sampling is None:
        return [NO_TOKEN]
    offsets = range(len(part.token_ids) - part.num_drafts - 1, len(part.token_ids))
    return [
        LEAST_TOKEN + (31 * part.token_ids[offset] + part.start + offset + 1) % (VOCABULARY - LEAST_TOKEN)
        for offset in offsets
    ]


def simulate(
    trace: Sequence[TraceRequest], limits: RunnerLimits, cost: StepCost, options: EngineOptions, seed: int
) -> Figures:
    """Replays a trace to its end; every request is ended then. Raises SimulationError."""
    clock = VirtualClock()
    recorder = Recorder(clock)
    runner = SimulatedRunner(limits, cost, clock)
    engine = Engine(runner, [b"x"] * VOCABULARY, options=options, clock=clock, report=recorder.report)
    arrivals = collections.deque(engine_requests(trace, seed))
    submitted = 0
    while arrivals or submitted > len(recorder.ended):
        if submitted == len(recorder.ended):
            clock.now = max(clock.now, arrivals[0].arrival_time)
        while arrivals and arrivals[0].arrival_time <= clock.now:
            engine.commands.put(Submit(arrivals.popleft()))
            submitted += 1
        before = (clock.now, len(recorder.ended))
        engine.step()
        if before == (clock.now, len(recorder.ended)):
            raise SimulationError(f"{submitted - before[1]} requests wait and none was advanced")
    return recorder.figures()
