"""The engine: takes commands, schedules, runs a step, hands out its events, again and again.

One thread runs it and owns everything in it: scheduler, sequences, KV cache and runner. Commands come in by
one queue, and all events of a step leave together by one call of `report`.

A step that the runner cannot compute ends the requests that were part of it. The engine then looks whether
its books are right and the runner still works, and goes on; where that is not so, or steps fail again and
again, `run` raises.
"""

import dataclasses
import itertools
import queue
from collections.abc import Callable
from collections.abc import Sequence as ReadOnlyList

from cadenza.server.engine.active_request import ActiveRequest
from cadenza.server.engine.batch import assemble
from cadenza.server.engine.kv_cache import KVCache
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.outcome import Outcome
from cadenza.server.engine.request import (
    GREEDY,
    Admitted,
    Cancel,
    Cancelled,
    Command,
    Drain,
    Event,
    Failed,
    FailureCause,
    Preempted,
    Progress,
    Request,
    StepKind,
    StepReport,
    Submit,
)
from cadenza.server.engine.schedule import Advance, Schedule
from cadenza.server.engine.scheduler import Scheduler, SchedulerLimits
from cadenza.server.engine.sequence import Sequence
from cadenza.server.runner.base import (
    Runner,
    RunnerError,
    SequenceSlice,
    StepBatch,
    StepResult,
)

MAX_FAILED_STEPS = 3
"""So many steps that fail one after another are not a request's fault."""


@dataclasses.dataclass(slots=True)
class _StepSummary:
    """What a step did, as it is found out."""

    tokens: int = 0
    draft_tokens: int = 0
    draft_tokens_accepted: int = 0
    sequences: int = 0
    kind: StepKind | None = None
    preemptions: int = 0
    duration: float = 0.0
    prompt_tokens_looked_up: int = 0
    prompt_tokens_cached: int = 0

    def count(self, schedule: Schedule) -> None:
        """The runner has computed this."""
        self.sequences = len(schedule.advances)
        self.tokens = sum(advance.num_rows for advance in schedule.advances)
        self.draft_tokens = sum(len(advance.drafts) for advance in schedule.advances)


class Engine:
    """Runs requests on a runner until it is drained.

    `token_bytes[id]` is what a token stands for, b"" for special tokens. `clock` gives seconds that never go
    back; `report` is called by the engine's thread and must return at once.
    """

    def __init__(
        self,
        runner: Runner,
        token_bytes: ReadOnlyList[bytes],
        *,
        options: EngineOptions,
        clock: Callable[[], float],
        report: Callable[[StepReport], None],
    ) -> None:
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.step_began: float | None = None
        """When the runner's present step began, for a watchdog in another thread; None between steps."""
        self._runner = runner
        self._token_bytes = token_bytes
        self._clock = clock
        self._report = report
        self._untold: StepReport | None = None
        limits = runner.limits
        self._kv_cache = KVCache(limits.num_blocks, limits.block_size, prefix_cache=options.prefix_cache)
        self._scheduler = Scheduler(
            SchedulerLimits(limits.max_step_tokens, limits.max_sequences, limits.takes_drafts),
            options,
            self._kv_cache,
        )
        self._requests: dict[str, ActiveRequest] = {}
        self._numbers = itertools.count()
        self._failed_steps = 0
        self._draining = False

    def run(self) -> None:
        """Serves until a Drain has come and all before it has ended.

        Raises RunnerError or KVCacheError where a failed step leaves no way to go on.
        """
        try:
            while self._requests or not self._draining:
                self._step()
        finally:
            self._tell()

    def step(self) -> None:
        """Takes the commands there are, waiting for one where there is no work, and runs one step."""
        self._step()
        self._tell()

    def _step(self) -> None:
        """A step whose report is told while the runner computes the next one: who hears it takes Python's
        lock, which is wanted here until then.
        """
        events: list[Event] = []
        self._take_commands(events)
        self._expire(events)
        summary = self._advance(events) if self._requests else _StepSummary()
        if events or summary.tokens:
            self._tell()
            self._untold = self._describe(events, summary)

    def _tell(self) -> None:
        """Reports what was not reported yet."""
        if self._untold is not None:
            report, self._untold = self._untold, None
            self._report(report)

    def _take_commands(self, events: list[Event]) -> None:
        if not self._requests and not self._draining:
            self._tell()
            self._take(self.commands.get(), events)
        while not self.commands.empty():
            self._take(self.commands.get(), events)

    def _take(self, command: Command, events: list[Event]) -> None:
        match command:
            case Submit(request):
                self._submit(request)
            case Cancel(request_id):
                active = self._requests.get(request_id)
                if active is not None:
                    self._cancel(active, events, deadline_exceeded=False)
            case Drain():
                self._draining = True

    def _submit(self, request: Request) -> None:
        active = ActiveRequest(request, next(self._numbers))
        self._requests[request.request_id] = active
        self._scheduler.add(self._new_choice(active, 0))

    def _new_choice(self, active: ActiveRequest, choice: int) -> Sequence:
        sampling = active.request.sampling
        if choice != sampling.choice:
            sampling = dataclasses.replace(sampling, choice=choice)
        sequence = Sequence.of(active.request, active.number, sampling, self._token_bytes)
        active.sequences.append(sequence)
        return sequence

    def _expire(self, events: list[Event]) -> None:
        now = self._clock()
        for active in [a for a in self._requests.values() if a.request.deadline <= now]:
            self._cancel(active, events, deadline_exceeded=True)

    def _cancel(self, active: ActiveRequest, events: list[Event], *, deadline_exceeded: bool) -> None:
        self._forget(active)
        events.append(Cancelled(active.request.request_id, deadline_exceeded))

    def _forget(self, active: ActiveRequest) -> None:
        for sequence in active.sequences:
            self._scheduler.remove(sequence)
        del self._requests[active.request.request_id]

    def _advance(self, events: list[Event]) -> _StepSummary:
        """Runs one step and turns its result into events."""
        begin = self._clock()
        schedule = self._scheduler.schedule(begin)
        summary = _StepSummary(preemptions=len(schedule.preempted))
        events += [Preempted(sequence.request_id) for sequence in schedule.preempted]
        self._begin(schedule, begin, events, summary)
        kind = _kind(schedule)
        try:
            result = self._run(assemble(schedule), begin)
        except RunnerError as error:
            self._fail_step(schedule, error, events)
            self._recover(error)
            return summary
        self._failed_steps = 0
        now = self._clock()
        for index, advance in enumerate(schedule.advances):
            active = self._requests.get(advance.sequence.request_id)
            if active is not None:  # another choice's logits have ended it in this very step
                outcome = Outcome.of(result, index, advance)
                summary.draft_tokens_accepted += self._deliver(active, advance, outcome, now, events)
        summary.count(schedule)
        summary.kind = kind if summary.tokens else None
        summary.duration = self._clock() - begin
        return summary

    def _begin(self, schedule: Schedule, now: float, events: list[Event], summary: _StepSummary) -> None:
        """Notes the requests whose first step this is."""
        for sequence in (advance.sequence for advance in schedule.advances):
            active = self._requests[sequence.request_id]
            if active.started:
                continue
            active.first_step_time = now
            active.cached_prompt_tokens = sequence.num_computed
            events.append(Admitted(sequence.request_id, now, sequence.num_computed))
            if self._kv_cache.looks_up(sequence):
                summary.prompt_tokens_looked_up += sequence.prompt_length
                summary.prompt_tokens_cached += sequence.num_computed

    def _run(self, batch: StepBatch, begin: float) -> StepResult:
        self.step_began = begin
        self._tell()
        try:
            return self._runner.step(batch)
        finally:
            self.step_began = None

    def _deliver(
        self, active: ActiveRequest, advance: Advance, outcome: Outcome, now: float, events: list[Event]
    ) -> int:
        """Takes a slice's outcome: the sequence moves on, and what came of it is told.

        Returns how many drafts became tokens of the sequence.
        """
        sequence = advance.sequence
        if outcome.not_finite and not outcome.token_ids:
            self._fail_not_finite(active, sequence, events)
            return 0
        start = sequence.num_computed
        self._kv_cache.commit(sequence, advance.num_tokens)
        prompt_logprobs, logprobs = active.take_prompt_logprobs(sequence, start, outcome.logprobs)
        if not outcome.token_ids:
            if prompt_logprobs:
                events.append(
                    Progress(sequence.request_id, sequence.choice, (), "", prompt_logprobs=prompt_logprobs)
                )
            return 0
        if active.request.n > 1 and not active.completion_tokens:
            self._fork(active, sequence, now)
        progress = active.append(sequence, outcome.token_ids, now, logprobs, prompt_logprobs)
        events.append(progress)
        self._accept(sequence, len(progress.token_ids) - 1)
        if progress.finish_reason is not None:
            self._end_choice(active, sequence, events)
        elif outcome.not_finite:
            self._fail_not_finite(active, sequence, events)
        return min(outcome.num_accepted, len(progress.token_ids))

    def _accept(self, sequence: Sequence, count: int) -> None:
        """So many of the drafts that were computed are followed by tokens: their keys and values stay."""
        if count:
            self._kv_cache.commit(sequence, count)
            self._scheduler.accept(sequence, count)

    def _fork(self, active: ActiveRequest, parent: Sequence, now: float) -> None:
        """The prompt is computed: the other choices go on from there."""
        for choice in range(1, active.request.n):
            self._scheduler.fork(parent, self._new_choice(active, choice), now)

    def _end_choice(self, active: ActiveRequest, sequence: Sequence, events: list[Event]) -> None:
        active.sequences.remove(sequence)
        self._scheduler.remove(sequence)
        if not active.sequences:
            del self._requests[active.request.request_id]
            events.append(active.finished())

    def _fail_not_finite(self, active: ActiveRequest, sequence: Sequence, events: list[Event]) -> None:
        for choice in active.sequences:
            self._kv_cache.distrust(choice)
        self._forget(active)
        message = (
            f"the logits after {len(sequence.token_ids)} tokens of choice {sequence.choice} are not finite"
        )
        events.append(Failed(sequence.request_id, FailureCause.LOGITS_NOT_FINITE, message))

    def _fail_step(self, schedule: Schedule, error: RunnerError, events: list[Event]) -> None:
        for request_id in dict.fromkeys(advance.sequence.request_id for advance in schedule.advances):
            self._forget(self._requests[request_id])
            events.append(Failed(request_id, FailureCause.STEP_FAILED, str(error)))

    def _recover(self, error: RunnerError) -> None:
        """Checks that the engine can go on after a failed step; raises where it cannot."""
        self._failed_steps += 1
        if self._failed_steps == MAX_FAILED_STEPS:
            raise error
        self._kv_cache.check([s for active in self._requests.values() for s in active.sequences])
        block = self._kv_cache.borrow()
        probe = SequenceSlice(token_ids=[0], start=0, block_table=[block], sampling=GREEDY)
        (token_id,) = self._run(StepBatch([probe]), self._clock()).token_ids
        self._kv_cache.give_back(block)
        if token_id < 0:
            raise RunnerError(f"after a failed step ({error}) the runner gives no token for a single one")

    def _describe(self, events: list[Event], summary: _StepSummary) -> StepReport:
        return StepReport(
            events=tuple(events),
            duration=summary.duration,
            batch_tokens=summary.tokens,
            batch_sequences=summary.sequences,
            kind=summary.kind,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            preemptions=summary.preemptions,
            prompt_tokens_looked_up=summary.prompt_tokens_looked_up,
            prompt_tokens_cached=summary.prompt_tokens_cached,
            kv_blocks_used=self._kv_cache.num_used,
            kv_blocks_total=self._kv_cache.num_blocks,
            draft_tokens=summary.draft_tokens,
            draft_tokens_accepted=summary.draft_tokens_accepted,
        )


def _kind(schedule: Schedule) -> StepKind:
    """What the step that is about to run computes."""
    decodes = sum(advance.sequence.is_decoding for advance in schedule.advances)
    if decodes == len(schedule.advances):
        return StepKind.DECODE
    return StepKind.MIXED if decodes else StepKind.PREFILL
