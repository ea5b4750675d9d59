"""The asyncio side of an engine: admission, fan-out of its events, drain, and what happens when it breaks.

All state here belongs to the loop. The engine's thread is reached by its command queue, and it reaches the
loop by one `call_soon_threadsafe` per step.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence

import structlog

from cadenza.server.admission import AdmissionQueue, Arrival, Place, QueueLimits
from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import (
    Admitted,
    Cancel,
    Cancelled,
    Drain,
    Failed,
    FailureCause,
    Finished,
    Progress,
    Request,
    StepReport,
    Submit,
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
from cadenza.server.pace import Pace, Work
from cadenza.server.runner.base import Runner
from cadenza.server.streams import Stream

_log = structlog.get_logger(__name__)
_CANCEL_SECONDS = 5.0
"""How long a drained engine may take to notice that everything was cancelled: a few of the slowest steps."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Running:
    priority: int
    begun: float


class Dispatcher:
    """Runs one model's engine in a thread of its own and hands its events to the calls that wait for them."""

    def __init__(
        self,
        runner: Runner,
        token_bytes: Sequence[bytes],
        *,
        name: str,
        limits: QueueLimits,
        options: EngineOptions,
        metrics: ModelMetrics,
        clock: Callable[[], float],
        on_failure: Callable[[], None],
    ) -> None:
        """`clock` gives seconds that never go back; `name` is the model's, for logs and the thread.

        `on_failure` is called on the loop when the engine has broken and its streams are ended.
        """
        self.name = name
        self._runner = runner
        self._engine = Engine(runner, token_bytes, options=options, clock=clock, report=self._report)
        self._client_weights = options.client_weights
        self._metrics = metrics
        self._clock = clock
        self._queue = AdmissionQueue(limits)
        self._pace = Pace(runner.limits)
        self._streams: dict[str, Stream] = {}
        self._waiting: dict[str, Place] = {}
        self._running: dict[str, _Running] = {}
        """Requests whose first step has begun, first to last."""
        self._keys = itertools.count()
        self._draining = False
        self._on_failure = on_failure
        self._failed = False
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Starts the engine's thread; the running loop gets its events."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run_engine, name=f"engine-{self.name}", daemon=True).start()

    @contextlib.contextmanager
    def enter(self, arrival: Arrival) -> Iterator[Place]:
        """A place in the queue, for as long as the prompt is being read; `submit` keeps it.

        Raises what `submit` does, as far as it can be known already: a refusal costs no tokenizing then.
        """
        self._check_open(arrival)
        self._check_deadline(arrival, prompt_tokens=1, n=1, sure_tokens=1)
        place = self._queue.enter(arrival, self._clock())
        try:
            yield place
        finally:
            if not place.kept:
                self._queue.leave(place)

    def submit(self, request: Request, place: Place) -> Stream:
        """Takes a request in, at once or not at all.

        Request ids need not be unique: the engine knows each request by a key of its own.
        Raises QueueFullError, DrainingError, DeadlineExceededError, DeadlineUnreachableError or
        EngineFailedError.
        """
        prompt_tokens = len(request.prompt_token_ids)
        self._check_open(place.arrival)
        place.sure_tokens = _sure_tokens(request)
        self._check_deadline(place.arrival, prompt_tokens, request.n, place.sure_tokens)
        self._queue.fill(place, prompt_tokens, self._clock())
        place.kept = True
        key = f"{next(self._keys)}-{request.request_id}"
        stream = Stream(request.request_id, key, self._close)
        self._streams[key] = stream
        self._waiting[key] = place
        self._metrics.waiting(len(self._waiting))
        self._engine.commands.put(Submit(dataclasses.replace(request, request_id=key)))
        return stream

    def step_seconds(self) -> float:
        """How long the step that now runs has been running; 0 where none runs."""
        began = self._engine.step_began
        return 0.0 if began is None else self._clock() - began

    def set_stalled(self, stalled: bool) -> None:
        """Says in the metrics whether the watchdog finds the step that runs too long."""
        self._metrics.stalled(stalled)

    def begin_drain(self) -> None:
        """Refuses new requests from now on; the engine stops when those it has are finished."""
        if not self._draining:
            self._draining = True
            self._engine.commands.put(Drain())

    async def drain(self, seconds: float) -> bool:
        """Waits for the engine to finish; what is not finished in `seconds` is cancelled.

        Returns whether the engine has stopped: False only where a step of its runner hangs.
        """
        self.begin_drain()
        if not await self._ends_within(seconds):
            _log.warning("drain_cancels", model=self.name, requests=len(self._streams))
            for key in self._streams:
                self._engine.commands.put(Cancel(key))
            if not await self._ends_within(_CANCEL_SECONDS):
                self._end_streams(lambda _: DrainingError())
                return False
        return True

    async def _ends_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _check_open(self, arrival: Arrival) -> None:
        if self._failed:
            raise EngineFailedError(arrival.request_id)
        if self._draining:
            raise DrainingError
        if arrival.deadline <= self._clock():
            raise DeadlineExceededError

    def _check_deadline(self, arrival: Arrival, prompt_tokens: int, n: int, sure_tokens: int) -> None:
        if math.isinf(arrival.deadline):
            return
        now = self._clock()
        passes = any(running.priority < arrival.priority for running in self._running.values())
        work = Work(prompt_tokens, n, sure_tokens, needs_free_slot=not passes)
        ahead = self._queue.ahead(arrival, prompt_tokens, self._client_weights)
        seconds = self._pace.seconds(work, ahead, now, [running.begun for running in self._running.values()])
        if now + seconds > arrival.deadline:
            raise DeadlineUnreachableError(seconds, arrival.deadline - now)

    def _close(self, stream: Stream) -> None:
        if self._streams.pop(stream.key, None) is not None and not stream.ended:
            self._engine.commands.put(Cancel(stream.key))
            self._metrics.cancelled(self._stage(stream), "client")

    def _stage(self, stream: Stream) -> str:
        if stream.key in self._waiting:
            return "queue"
        return "decode" if stream.last_token_at else "prefill"

    def _run_engine(self) -> None:
        """The engine's thread."""
        failure: BaseException | None = None
        try:
            with contextlib.closing(self._runner):
                self._engine.run()
        except BaseException as error:  # noqa: BLE001 whatever ends the engine must reach the loop
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._engine_ended, failure)

    def _report(self, report: StepReport) -> None:
        """Called by the engine's thread."""
        self._loop.call_soon_threadsafe(self._deliver, report, self._clock())

    def _deliver(self, report: StepReport, now: float) -> None:
        generated = ended = 0
        intervals: dict[float, int] = {}
        for event in report.events:
            stream = self._streams.get(event.request_id)
            if not isinstance(event, Progress):
                ended += isinstance(event, Cancelled | Failed) and event.request_id in self._running
                self._change(event, stream, now)
                continue
            generated += len(event.token_ids)
            ended += event.finish_reason is not None
            if stream is not None:
                if event.token_ids:
                    _count_interval(stream, event.choice, now, intervals)
                if event.finish_reason is not None:
                    self._metrics.choice_finished(event.finish_reason)
                stream.push(event)
        self._pace.learn(report, ended, now)
        self._metrics.step(report, generated, intervals)
        self._give_up_waiting(now)

    def _give_up_waiting(self, now: float) -> None:
        """Ends what waits and could not be done in time if its first step came now and all were quick."""
        token_seconds = self._pace.quick_token_seconds(now)
        for key, place in self._waiting.items():
            seconds, left = (place.sure_tokens - 1) * token_seconds, place.arrival.deadline - now
            if seconds > left and (stream := self._streams.pop(key, None)) is not None:
                stream.end(DeadlineUnreachableError(seconds, left))
                self._engine.commands.put(Cancel(key))
                self._metrics.cancelled("queue", "deadline")

    def _change(
        self, event: Admitted | Finished | Cancelled | Failed, stream: Stream | None, now: float
    ) -> None:
        """What happens once per request: it leaves the queue, it ends."""
        if stream is not None and not isinstance(event, Admitted):
            self._end(event, stream)
        place = self._waiting.pop(event.request_id, None)
        if place is not None:
            self._queue.leave(place)
            self._metrics.waiting(len(self._waiting))
        if not isinstance(event, Admitted):
            self._running.pop(event.request_id, None)
            self._queue.ended(now)
        elif place is not None:
            self._running[event.request_id] = _Running(place.arrival.priority, now)

    def _end(self, event: Finished | Cancelled | Failed, stream: Stream) -> None:
        match event:
            case Finished():
                self._metrics.finished(event, len(stream.last_token_at))
                stream.end(event)
            case Cancelled(deadline_exceeded=True):
                self._metrics.cancelled(self._stage(stream), "deadline")
                stream.end(DeadlineExceededError())
            case Cancelled():
                self._metrics.cancelled(self._stage(stream), "drain")
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

    def _engine_ended(self, failure: BaseException | None) -> None:
        if failure is not None:
            _log.error("engine_failed", model=self.name, requests=len(self._streams), exc_info=failure)
            self._metrics.engine_failed()
            self._failed = True
            self._end_streams(lambda stream: EngineFailedError(stream.request_id))
            self._on_failure()
        self._ended.set()

    def _end_streams(self, error: Callable[[Stream], RequestError]) -> None:
        for stream in self._streams.values():
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


def _count_interval(stream: Stream, choice: int, now: float, intervals: dict[float, int]) -> None:
    last = stream.last_token_at.get(choice)
    if last is not None:
        seconds = now - last
        intervals[seconds] = intervals.get(seconds, 0) + 1
    stream.last_token_at[choice] = now
