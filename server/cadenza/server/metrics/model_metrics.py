"""One version's part in its model's series."""

import dataclasses
from collections.abc import Mapping, Sequence

from cadenza.server.account import Account
from cadenza.server.engine.request import (
    Event,
    Failed,
    FailureCause,
    Finished,
    FinishReason,
    StepKind,
    StepReport,
)
from cadenza.server.metrics.collectors import Metrics

_STEPS_AT_ONCE = 16


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """A step that is still to be counted."""

    report: StepReport
    generated_tokens: int
    intervals: Mapping[float, int]


class ModelMetrics:
    """Series are found once: looking labels up costs more than counting. Several versions show as one.

    Steps are counted some at a time, and whenever the registry is read.
    """

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._running = metrics.running.share(model)
        self._waiting = metrics.waiting.share(model)
        self._kv_usage = metrics.kv_usage.share(model)
        self._batch_tokens = metrics.batch_tokens.labels(model)
        self._batch_sequences = metrics.batch_sequences.labels(model)
        self._generated_tokens = metrics.generated_tokens.labels(model)
        self._draft_tokens = metrics.draft_tokens.labels(model)
        self._draft_tokens_accepted = metrics.draft_tokens_accepted.labels(model)
        self._preemptions = metrics.preemptions.labels(model)
        self._prefix_queried = metrics.prefix_queried.labels(model)
        self._prefix_hit = metrics.prefix_hit.labels(model)
        self._stalled = metrics.stalled.share(model)
        self._steps = metrics.steps.labels(model)
        self._step_failures = metrics.step_failures.labels(model)
        self._failed = {cause: metrics.failed.labels(model, cause.value) for cause in FailureCause}
        self._engine_failures = metrics.engine_failures.labels(model)
        self._step = {kind: metrics.step.labels(model, kind.value) for kind in StepKind}
        self._step_sequences = metrics.step_sequences.labels(model)
        self._itl = metrics.itl.series(model)
        for share in (self._running, self._waiting, self._stalled):
            share.set(0)
        self._kv_usage.set((0, 1))
        self._steps_to_count: list[_Step] = []
        self._last: Sequence[StepReport] = ()
        """The last reports of all the model's engines."""
        metrics.put_off.add(self._count_steps)

    def end(self) -> None:
        """The version has no engine any more; what it counted stays."""
        self._count_steps()
        self._metrics.put_off.remove(self._count_steps)
        for share in (self._running, self._waiting, self._kv_usage, self._stalled):
            share.drop()

    def step(
        self,
        report: StepReport,
        generated_tokens: int,
        intervals: Mapping[float, int],
        others: Sequence[StepReport] = (),
    ) -> None:
        """One step; `intervals` counts tokens by seconds since the one before of their choice.

        `others` are the last reports of the model's other engines.
        """
        self._last = (report, *others)
        self._steps_to_count.append(_Step(report, generated_tokens, intervals))
        if len(self._steps_to_count) == _STEPS_AT_ONCE:
            self._count_steps()

    def _count_steps(self) -> None:
        for step in self._steps_to_count:
            self._count(step.report, step.generated_tokens, step.intervals)
        self._steps_to_count.clear()
        if self._last:
            self._running.set(sum(one.running for one in self._last))
            used = sum(one.kv_blocks_used for one in self._last)
            self._kv_usage.set((used, sum(one.kv_blocks_total for one in self._last)))

    def _count(self, report: StepReport, generated_tokens: int, intervals: Mapping[float, int]) -> None:
        if report.preemptions:
            self._preemptions.inc(report.preemptions)
        if report.prompt_tokens_looked_up:
            self._prefix_queried.inc(report.prompt_tokens_looked_up)
            self._prefix_hit.inc(report.prompt_tokens_cached)
        if report.kind is not None:
            self._steps.inc()
            self._step[report.kind].observe(report.duration)
            self._batch_tokens.set(report.batch_tokens)
            self._batch_sequences.set(report.batch_sequences)
            self._step_sequences.observe(report.batch_sequences)
        elif any(map(_is_failed_step, report.events)):
            self._step_failures.inc()
        if report.draft_tokens:
            self._draft_tokens.inc(report.draft_tokens)
            self._draft_tokens_accepted.inc(report.draft_tokens_accepted)
        if generated_tokens:
            self._generated_tokens.inc(generated_tokens)
        for seconds, count in intervals.items():
            self._itl.observe(seconds, count)

    def waiting(self, requests: int) -> None:
        """Requests whose first step has not begun."""
        self._waiting.set(requests)

    def choice_finished(self, reason: FinishReason) -> None:
        """A choice has ended."""
        self._metrics.choices.labels(self._model, reason.value).inc()

    def finished(self, event: Finished, account: Account) -> None:
        """A request has its answer."""
        metrics, model, timing = self._metrics, self._model, event.timing
        metrics.finished.labels(model, account.finish_reason).inc()
        metrics.prompt_tokens.labels(model).inc(event.prompt_tokens)
        metrics.cached_prompt_tokens.labels(model).inc(event.cached_prompt_tokens)
        metrics.request_prompt.labels(model).observe(event.prompt_tokens)
        metrics.request_generation.labels(model).observe(event.completion_tokens)
        metrics.queue.labels(model).observe(timing.queue)
        metrics.prefill.labels(model).observe(timing.prefill)
        metrics.decode.labels(model).observe(timing.decode)
        metrics.ttft.labels(model).observe(timing.time_to_first_token)
        metrics.e2e.labels(model).observe(timing.total)
        choices = account.request.n
        if event.completion_tokens > choices:
            metrics.tpot.labels(model).observe(timing.decode * choices / (event.completion_tokens - choices))

    def cancelled(self, stage: str, cause: str) -> None:
        """A request ended unanswered; stage is queue, prefill or decode, cause client, deadline or drain."""
        self._metrics.cancelled.labels(self._model, stage, cause).inc()

    def failed(self, cause: FailureCause) -> None:
        """The engine failed a request and goes on."""
        self._failed[cause].inc()

    def stalled(self, stalled: bool) -> None:
        """Whether a step runs for longer than it may."""
        self._stalled.set(int(stalled))

    def engine_failed(self) -> None:
        """The model's engine broke."""
        self._engine_failures.inc()


def _is_failed_step(event: Event) -> bool:
    return isinstance(event, Failed) and event.cause is FailureCause.STEP_FAILED
