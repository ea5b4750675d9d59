"""The asyncio side of a model's engines: admission, fan-out of events, drain, and their failures.

All state here belongs to the loop; a replica stands for each engine and its thread.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import math
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from cadenza.server.admission import AdmissionQueue, Arrival, Place, QueueLimits
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import (
    Admitted,
    Cancelled,
    Failed,
    FailureCause,
    Finished,
    Preempted,
    Progress,
    Request,
    StepReport,
)
from cadenza.server.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    DrainingError,
    EngineFailedError,
    LogitsNotFiniteError,
    RequestError,
    StepFailedError,
)
from cadenza.server.metrics import ModelMetrics
from cadenza.server.pace import Ahead, Work
from cadenza.server.replica import Replica, Running
from cadenza.server.runner.base import Runner
from cadenza.server.streams import Stream

_log = structlog.get_logger(__name__)
_CANCEL_SECONDS = 5.0
"""How long a drained engine may take to notice that everything was cancelled: a few of the slowest steps."""
_FEW_STREAMS = 4
"""With more, messages of a stream come at longer intervals, so that all streams together make no more."""
_AFFINITY_TOKENS = 64
"""Prompts that begin with the same so many tokens go to one replica where several are equally free."""


class Dispatcher:
    """Runs one model's engines, a replica per runner, and hands their events to the calls that wait for them.

    One queue is bounded for all. A request goes to the replica that has the fewest sequences and stays there.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        token_bytes: Sequence[bytes],
        *,
        name: str,
        limits: QueueLimits,
        options: EngineOptions,
        metrics: ModelMetrics,
        clock: Callable[[], float],
        on_failure: Callable[[], None],
        message_spacing: float = 0.0,
    ) -> None:
        """`clock` gives seconds that never go back; `name` is the model's, for logs and the threads.

        `message_spacing` are the least seconds between messages of a stream where few run.

        `on_failure` is called on the loop when the last engine has broken and its streams are ended.
        """
        self.name = name
        self._replicas = [
            Replica(
                runner,
                token_bytes,
                name=f"engine-{name}-{index}",
                options=options,
                clock=clock,
                listener=self,
            )
            for index, runner in enumerate(runners)
        ]
        self._client_weights = options.client_weights
        self._metrics = metrics
        self._clock = clock
        self._queue = AdmissionQueue(limits)
        self._streams: dict[str, Stream] = {}
        self._homes: dict[str, Replica] = {}
        """By key, of the requests in _streams."""
        self._keys = itertools.count()
        self._reading = 0
        """Requests that have a place and whose prompts are being read."""
        self._draining = False
        self._told_engines = False
        """No request reaches the engines any more: they were told to stop when they have finished."""
        self._on_failure = on_failure
        self._message_spacing = message_spacing

    def start(self) -> None:
        """Starts the engines' threads; the running loop gets their events."""
        for replica in self._replicas:
            replica.start()

    @contextlib.contextmanager
    def enter(self, arrival: Arrival) -> Iterator[Place]:
        """A place in the queue, for as long as the prompt is being read; `submit` keeps it.

        Raises what `submit` does, as far as it can be known already: a refusal costs no tokenizing then.
        """
        self._check_open(arrival)
        self._check_deadline(self._freest(()), arrival, prompt_tokens=1, n=1, sure_tokens=1)
        place = self._queue.enter(arrival, self._clock())
        self._reading += 1
        try:
            yield place
        finally:
            if not place.kept:
                self._queue.leave(place)
            self._reading -= 1
            self._tell_engines_of_drain()

    def submit(self, request: Request, place: Place) -> Stream:
        """Takes a request in, at once or not at all.

        Request ids need not be unique: the engine knows each request by a key of its own. A request that had
        its place before the drain began is taken.
        Raises QueueFullError, DrainingError, DeadlineExceededError, DeadlineUnreachableError or
        EngineFailedError.
        """
        prompt_tokens = len(request.prompt_token_ids)
        self._check_usable(place.arrival)
        place.sure_tokens = _sure_tokens(request)
        replica = self._freest(request.prompt_token_ids)
        self._check_deadline(replica, place.arrival, prompt_tokens, request.n, place.sure_tokens)
        self._queue.fill(place, prompt_tokens, self._clock())
        place.kept = True
        key = f"{next(self._keys)}-{request.request_id}"
        stream = Stream(request, key, self._close)
        self._streams[key] = stream
        self._homes[key] = replica
        replica.submit(dataclasses.replace(request, request_id=key), place)
        self._say_waiting()
        return stream

    def step_seconds(self) -> float:
        """How long the longest of the steps that now run has been running; 0 where none runs."""
        return max(replica.step_seconds() for replica in self._replicas)

    def set_stalled(self, stalled: bool) -> None:
        """Says in the metrics whether the watchdog finds the step that runs too long."""
        self._metrics.stalled(stalled)

    def begin_drain(self) -> None:
        """Refuses new requests from now on; the engines stop when those that have a place are finished."""
        self._draining = True
        self._tell_engines_of_drain()

    async def drain(self, seconds: float) -> bool:
        """Waits for the engines to finish; what is not finished in `seconds` is cancelled.

        Returns whether all have stopped: False only where a step of a runner hangs.
        """
        self.begin_drain()
        if not await self._ends_within(seconds):
            _log.warning("drain_cancels", model=self.name, requests=len(self._streams))
            self._tell_engines_of_drain(at_once=True)
            for key in self._streams:
                self._homes[key].cancel(key)
            if not await self._ends_within(_CANCEL_SECONDS):
                _end_streams(self._streams.values(), lambda _: DrainingError())
                return False
        self._metrics.end()
        return True

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                for replica in self._replicas:
                    await replica.ended.wait()
        except TimeoutError:
            return False
        return True

    def _tell_engines_of_drain(self, *, at_once: bool = False) -> None:
        """Once no request is on its way to them, or `at_once`."""
        if self._draining and not self._told_engines and (at_once or not self._reading):
            self._told_engines = True
            for replica in self._replicas:
                replica.drain()

    def _working(self) -> list[Replica]:
        return [replica for replica in self._replicas if not replica.broken]

    def _freest(self, prompt_token_ids: Sequence[int]) -> Replica:
        """With the fewest sequences; among equals the one that prompts of this beginning go to."""
        working = self._working()
        fewest = min(replica.sequences for replica in working)
        equals = [replica for replica in working if replica.sequences == fewest]
        return equals[zlib.crc32(array("i", prompt_token_ids[:_AFFINITY_TOKENS])) % len(equals)]

    def _say_waiting(self) -> None:
        self._metrics.waiting(sum(len(replica.waiting) for replica in self._replicas))

    def _check_open(self, arrival: Arrival) -> None:
        self._check_usable(arrival)
        if self._draining:
            raise DrainingError

    def _check_usable(self, arrival: Arrival) -> None:
        if not self._working():
            raise EngineFailedError(arrival.request_id)
        if self._told_engines:
            raise DrainingError
        if arrival.deadline <= self._clock():
            raise DeadlineExceededError

    def _check_deadline(
        self, replica: Replica, arrival: Arrival, prompt_tokens: int, n: int, sure_tokens: int
    ) -> None:
        if math.isinf(arrival.deadline):
            return
        now = self._clock()
        running = replica.running.values()
        passes = any(one.priority < arrival.priority for one in running)
        work = Work(prompt_tokens, n, sure_tokens, needs_free_slot=not passes)
        seconds = replica.pace.seconds(
            work, self._ahead(arrival, prompt_tokens), now, [one.begun for one in running]
        )
        if now + seconds > arrival.deadline:
            raise DeadlineUnreachableError(seconds, arrival.deadline - now)

    def _ahead(self, arrival: Arrival, prompt_tokens: int) -> Ahead:
        """What waits before a request on one replica: all have about the same."""
        ahead = self._queue.ahead(arrival, prompt_tokens, self._client_weights)
        replicas = len(self._working())
        return Ahead(ahead.requests / replicas, ahead.prompt_tokens / replicas)

    def _close(self, stream: Stream) -> None:
        if (replica := self._take(stream)) is not None and not stream.ended:
            replica.cancel(stream.key)
            self._metrics.cancelled(stream.account.stage, "client")

    def _take(self, stream: Stream) -> Replica | None:
        """Forgets a stream; returns where its request is, None where the stream is not known any more."""
        self._streams.pop(stream.key, None)
        return self._homes.pop(stream.key, None)

    def deliver(self, replica: Replica, report: StepReport, now: float) -> None:
        """Hands out what a step brought."""
        generated = ended = 0
        intervals: dict[float, int] = {}
        running = sum(len(one.running) for one in self._replicas)
        spacing = self._message_spacing * max(1.0, running / _FEW_STREAMS)
        for event in report.events:
            stream = self._streams.get(event.request_id)
            if not isinstance(event, Progress):
                ended += isinstance(event, Cancelled | Failed) and event.request_id in replica.running
                self._change(replica, event, stream, now)
                continue
            generated += len(event.token_ids)
            ended += event.finish_reason is not None
            if stream is not None:
                stream.account.advance(event, now)
                if event.token_ids:
                    _count_intervals(stream, event, now, intervals)
                if event.finish_reason is not None:
                    self._metrics.choice_finished(event.finish_reason)
                stream.push(event, now, spacing)
        replica.pace.learn(report, ended, now)
        others = [one.last_report for one in self._replicas if one is not replica]
        self._metrics.step(report, generated, intervals, [other for other in others if other is not None])
        self._give_up_waiting(replica, now)

    def _give_up_waiting(self, replica: Replica, now: float) -> None:
        """Ends what waits and could not be done in time if its first step came now and all were quick."""
        token_seconds = replica.pace.quick_token_seconds(now)
        for key, place in replica.waiting.items():
            seconds, left = (place.sure_tokens - 1) * token_seconds, place.arrival.deadline - now
            if seconds > left and (stream := self._streams.get(key)) is not None:
                self._take(stream)
                stream.end(DeadlineUnreachableError(seconds, left))
                replica.cancel(key)
                self._metrics.cancelled("queue", "deadline")

    def _change(
        self,
        replica: Replica,
        event: Admitted | Preempted | Finished | Cancelled | Failed,
        stream: Stream | None,
        now: float,
    ) -> None:
        """What happens to a request as a whole: it leaves the queue, it gives way, it ends."""
        if stream is not None:
            self._tell(event, stream)
        if isinstance(event, Preempted):
            return
        place = replica.waiting.pop(event.request_id, None)
        if place is not None:
            self._queue.leave(place)
            self._say_waiting()
        if not isinstance(event, Admitted):
            replica.forget(event.request_id)
            self._queue.ended(now)
        elif place is not None:
            replica.running[event.request_id] = Running(place.arrival.priority, now)

    def _tell(self, event: Admitted | Preempted | Finished | Cancelled | Failed, stream: Stream) -> None:
        match event:
            case Admitted():
                stream.account.admit(event)
            case Preempted():
                stream.account.preemptions += 1
                stream.tell()
            case Finished():
                stream.account.finish(event)
                self._metrics.finished(event, stream.account)
                stream.end(event)
            case Cancelled(deadline_exceeded=True):
                self._metrics.cancelled(stream.account.stage, "deadline")
                stream.end(DeadlineExceededError())
            case Cancelled():
                self._metrics.cancelled(stream.account.stage, "drain")
                stream.end(DrainingError())
            case Failed(cause=cause, message=message):
                _log.error(
                    "request_failed",
                    model=self.name,
                    request_id=stream.request_id,
                    cause=cause.value,
                    error=message,
                )
                self._metrics.failed(cause)
                stream.end(_failure(cause, stream.request_id))

    def engine_ended(self, replica: Replica, failure: BaseException | None) -> None:
        """Ends the streams of an engine that broke; while other replicas work, new requests go to them."""
        if failure is None:
            return
        streams = [self._streams[key] for key, home in self._homes.items() if home is replica]
        working = len(self._working())
        _log.error(
            "engine_failed",
            model=self.name,
            requests=len(streams),
            engines_left=working,
            exc_info=failure,
        )
        self._metrics.engine_failed()
        _end_streams(streams, lambda stream: EngineFailedError(stream.request_id))
        for place in replica.waiting.values():
            self._queue.leave(place)
        replica.waiting.clear()
        self._say_waiting()
        if not working:
            self._on_failure()


def _end_streams(streams: Iterable[Stream], error: Callable[[Stream], RequestError]) -> None:
    for stream in streams:
        if not stream.ended:
            stream.end(error(stream))


def _sure_tokens(request: Request) -> int:
    """How many tokens each choice has for certain: all of them where nothing can end it early."""
    ends_early = request.eos_token_ids or request.stop_token_ids or request.stop
    return 1 if ends_early else request.max_tokens


def _failure(cause: FailureCause, request_id: str) -> RequestError:
    match cause:
        case FailureCause.STEP_FAILED:
            return StepFailedError(request_id)
        case FailureCause.LOGITS_NOT_FINITE:
            return LogitsNotFiniteError(request_id)


def _count_intervals(stream: Stream, event: Progress, now: float, intervals: dict[float, int]) -> None:
    """A token's interval is from the one before it, so of several of one step all but the first have 0."""
    last = stream.last_token_at.get(event.choice)
    if last is not None:
        seconds = now - last
        intervals[seconds] = intervals.get(seconds, 0) + 1
    if len(event.token_ids) > 1:
        intervals[0.0] = intervals.get(0.0, 0) + len(event.token_ids) - 1
    stream.last_token_at[event.choice] = now
