"""The engine: takes commands, schedules, runs a step, hands out its events, again and again.

One thread runs it and owns everything in it: scheduler, sequences, KV cache and runner. Commands come in by
one queue, and all events of a step leave together by one call of `report`.
"""

import dataclasses
import queue
from collections.abc import Callable
from collections.abc import Sequence as ReadOnlyList

from cadenza.server.engine.kv_cache import KVCache
from cadenza.server.engine.request import (
    Admitted,
    Cancel,
    Cancelled,
    Command,
    Drain,
    Event,
    Finished,
    FinishReason,
    Progress,
    Request,
    StepReport,
    Submit,
)
from cadenza.server.engine.scheduler import Advance, Schedule, Scheduler, SchedulerLimits
from cadenza.server.engine.sequence import Sequence
from cadenza.server.engine.text import TextAssembler
from cadenza.server.runner.base import Runner, SequenceSlice, StepBatch

MIXED_PREFILL_TOKENS = 128
"""Prefill tokens beside decodes in one step; see SchedulerLimits."""


@dataclasses.dataclass(frozen=True, slots=True)
class _StepSize:
    tokens: int
    sequences: int
    preemptions: int
    duration: float


_NO_STEP = _StepSize(tokens=0, sequences=0, preemptions=0, duration=0.0)


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
        clock: Callable[[], float],
        report: Callable[[StepReport], None],
    ) -> None:
        self.commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._runner = runner
        self._token_bytes = token_bytes
        self._clock = clock
        self._report = report
        limits = runner.limits
        self._kv_cache = KVCache(limits.num_blocks, limits.block_size)
        self._scheduler = Scheduler(
            SchedulerLimits(
                max_step_tokens=limits.max_step_tokens,
                max_sequences=limits.max_sequences,
                mixed_prefill_tokens=min(MIXED_PREFILL_TOKENS, limits.max_step_tokens),
            ),
            self._kv_cache,
        )
        self._sequences: dict[str, Sequence] = {}
        self._draining = False

    def run(self) -> None:
        """Serves until a Drain has come and all before it has ended; raises what the runner raises."""
        while self._sequences or not self._draining:
            self.step()

    def step(self) -> None:
        """Takes the commands there are, waiting for one where there is no work, and runs one step."""
        events: list[Event] = []
        self._take_commands(events)
        self._expire(events)
        size = self._advance(events) if self._sequences else _NO_STEP
        if events or size.tokens:
            self._report(self._describe(events, size))

    def _take_commands(self, events: list[Event]) -> None:
        if not self._sequences and not self._draining:
            self._take(self.commands.get(), events)
        while not self.commands.empty():
            self._take(self.commands.get(), events)

    def _take(self, command: Command, events: list[Event]) -> None:
        match command:
            case Submit(request):
                self._submit(request)
            case Cancel(request_id):
                sequence = self._sequences.get(request_id)
                if sequence is not None:
                    self._cancel(sequence, events, deadline_exceeded=False)
            case Drain():
                self._draining = True

    def _submit(self, request: Request) -> None:
        text = TextAssembler(self._token_bytes, request.stop)
        sequence = Sequence(request, text, list(request.prompt_token_ids))
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def _expire(self, events: list[Event]) -> None:
        now = self._clock()
        for sequence in [s for s in self._sequences.values() if s.request.deadline <= now]:
            self._cancel(sequence, events, deadline_exceeded=True)

    def _cancel(self, sequence: Sequence, events: list[Event], *, deadline_exceeded: bool) -> None:
        self._forget(sequence)
        events.append(Cancelled(sequence.request_id, deadline_exceeded))

    def _forget(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        del self._sequences[sequence.request_id]

    def _advance(self, events: list[Event]) -> _StepSize:
        begin = self._clock()
        schedule = self._scheduler.schedule()
        for sequence in (advance.sequence for advance in schedule.advances):
            if not sequence.started:
                sequence.first_step_time = begin
                events.append(Admitted(sequence.request_id))
        result = self._runner.step(StepBatch([_slice(advance) for advance in schedule.advances]))
        now = self._clock()
        for advance, token_id in zip(schedule.advances, result.token_ids, strict=True):
            advance.sequence.num_computed += advance.num_tokens
            if token_id >= 0:
                events.append(self._append(advance.sequence, token_id, now))
        return _size(schedule, self._clock() - begin)

    def _append(self, sequence: Sequence, token_id: int, now: float) -> Event:
        """Adds a generated token; the sequence is forgotten where that ends it."""
        if not sequence.num_generated:
            sequence.first_token_time = now
        sequence.last_token_time = now
        sequence.token_ids.append(token_id)
        ends_by_token = _token_reason(sequence.request, token_id)
        text = "" if ends_by_token else sequence.text.append(token_id)
        reason = ends_by_token or _text_reason(sequence)
        if reason is None:
            return Progress(sequence.request_id, (token_id,), text)
        self._forget(sequence)
        return Finished(
            sequence.request_id,
            (token_id,),
            text + sequence.text.flush(),
            reason,
            prompt_tokens=len(sequence.request.prompt_token_ids),
            completion_tokens=sequence.num_generated,
            cached_prompt_tokens=0,
            timing=sequence.timing,
        )

    def _describe(self, events: list[Event], size: _StepSize) -> StepReport:
        return StepReport(
            events=tuple(events),
            duration=size.duration,
            batch_tokens=size.tokens,
            batch_sequences=size.sequences,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            preemptions=size.preemptions,
            kv_blocks_used=self._kv_cache.num_used,
            kv_blocks_total=self._kv_cache.num_blocks,
        )


def _slice(advance: Advance) -> SequenceSlice:
    sequence = advance.sequence
    start = sequence.num_computed
    complete = advance.num_tokens == sequence.num_pending
    return SequenceSlice(
        token_ids=sequence.token_ids[start : start + advance.num_tokens],
        start=start,
        block_table=sequence.block_table,
        sampling=sequence.request.sampling if complete else None,
    )


def _token_reason(request: Request, token_id: int) -> FinishReason | None:
    if token_id in request.eos_token_ids:
        return FinishReason.STOP
    if token_id in request.stop_token_ids:
        return FinishReason.STOP_TOKEN
    return None


def _text_reason(sequence: Sequence) -> FinishReason | None:
    if sequence.text.stopped:
        return FinishReason.STOP
    if sequence.num_generated == sequence.request.max_tokens:
        return FinishReason.LENGTH
    return None


def _size(schedule: Schedule, duration: float) -> _StepSize:
    return _StepSize(
        tokens=sum(advance.num_tokens for advance in schedule.advances),
        sequences=len(schedule.advances),
        preemptions=len(schedule.preempted),
        duration=duration,
    )
