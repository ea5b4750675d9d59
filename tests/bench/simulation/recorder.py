"""Collects what an engine reports and makes figures of it, in virtual time and in real time alike."""

import collections
import dataclasses
import itertools
from collections.abc import Callable

from cadenza.load import Percentiles, percentiles
from cadenza.server.engine.request import Cancelled, Failed, Finished, Progress, StepReport


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """How a replay went. Seconds; a distribution is None where no request gives it a value."""

    ended: dict[str, int]
    """Requests by how they ended: finished, deadline, cancelled, or the cause of a failure."""
    ttft: Percentiles | None
    """First token - arrival, of requests that finished."""
    itl: Percentiles | None
    """Time between the reports of consecutive tokens of a request."""
    queue: Percentiles | None
    """First step - arrival, of requests that finished."""
    preemptions: int
    steps: int
    generated_tokens: int
    looked_up_tokens: int
    """Prompt tokens that were looked up in the prefix cache."""
    cached_tokens: int
    """Those that were found."""
    duration: float
    """From the trace's begin to the last report."""

    @property
    def tokens_per_second(self) -> float:
        """generated_tokens / duration."""
        return self.generated_tokens / self.duration if self.duration else 0.0

    @property
    def hit_ratio(self) -> float:
        """cached_tokens / looked_up_tokens."""
        return self.cached_tokens / self.looked_up_tokens if self.looked_up_tokens else 0.0


class Recorder:
    """`report` takes an engine's reports; `clock` is the engine's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reports: list[tuple[float, StepReport]] = []
        self._token_times: dict[str, list[float]] = collections.defaultdict(list)
        self._finished: list[Finished] = []
        self.ended: dict[str, str] = {}
        """How each request that has ended did so."""

    def report(self, report: StepReport) -> None:
        """Notes a step's end and what came of it. Raises ValueError where a request ends twice."""
        now = self._clock()
        self._reports.append((now, report))
        for event in report.events:
            match event:
                case Progress(request_id=name, token_ids=token_ids):
                    self._token_times[name] += [now] * len(token_ids)
                case Finished():
                    self._finished.append(event)
                    self._end(event.request_id, "finished")
                case Cancelled(request_id=name, deadline_exceeded=exceeded):
                    self._end(name, "deadline" if exceeded else "cancelled")
                case Failed(request_id=name, cause=cause):
                    self._end(name, cause.value)

    def _end(self, name: str, how: str) -> None:
        if name in self.ended:
            raise ValueError(f"request {name} ended by {self.ended[name]}, and again by {how}")
        self.ended[name] = how

    @property
    def step_seconds(self) -> list[float]:
        """Of each step, in order."""
        return [report.duration for _, report in self._reports if report.batch_tokens]

    def figures(self) -> Figures:
        """The figures of all that was reported."""
        timings = [event.timing for event in self._finished]
        reports = [report for _, report in self._reports]
        gaps = [
            later - earlier
            for times in self._token_times.values()
            for earlier, later in itertools.pairwise(times)
        ]
        return Figures(
            ended=dict(collections.Counter(self.ended.values())),
            ttft=percentiles([timing.first_token - timing.arrival for timing in timings]),
            itl=percentiles(gaps),
            queue=percentiles([timing.first_step - timing.arrival for timing in timings]),
            preemptions=sum(report.preemptions for report in reports),
            steps=len(self.step_seconds),
            generated_tokens=sum(map(len, self._token_times.values())),
            looked_up_tokens=sum(report.prompt_tokens_looked_up for report in reports),
            cached_tokens=sum(report.prompt_tokens_cached for report in reports),
            duration=self._reports[-1][0] if self._reports else 0.0,
        )
