"""The asyncio side of an engine: admission, fan-out of its events, drain, and what happens when it breaks.

All state here belongs to the loop. The engine's thread is reached by its command queue, and it reaches the
loop by one `call_soon_threadsafe` per step.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Sequence

import structlog

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.request import (
    Admitted,
    Cancel,
    Cancelled,
    Drain,
    Finished,
    Progress,
    Request,
    StepReport,
    Submit,
)
from cadenza.server.errors import DeadlineExceededError, DrainingError, EngineFailedError, QueueFullError
from cadenza.server.metrics import ModelMetrics
from cadenza.server.runner.base import Runner
from cadenza.server.streams import Stream

_log = structlog.get_logger(__name__)
_RECENT_ENDS = 64
_RETRY_SECONDS = (0.1, 30.0)
_RETRY_SECONDS_UNKNOWN = 1.0
_CANCEL_SECONDS = 5.0
"""How long a drained engine may take to notice that everything was cancelled: a few of the slowest steps."""


@dataclasses.dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for its first step; more is refused."""

    requests: int
    prompt_tokens: int


class Dispatcher:
    """Runs one model's engine in a thread of its own and hands its events to the calls that wait for them."""

    def __init__(
        self,
        runner: Runner,
        token_bytes: Sequence[bytes],
        *,
        name: str,
        limits: QueueLimits,
        metrics: ModelMetrics,
        clock: Callable[[], float],
        on_failure: Callable[[], None],
    ) -> None:
        """`clock` gives seconds that never go back; `name` is the model's, for logs and the thread.

        `on_failure` is called on the loop when the engine has broken and its streams are ended.
        """
        self._runner = runner
        self._engine = Engine(runner, token_bytes, clock=clock, report=self._report)
        self._name = name
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._waiting: dict[str, int] = {}
        self._waiting_tokens = 0
        self._keys = itertools.count()
        self._recent_ends: collections.deque[float] = collections.deque(maxlen=_RECENT_ENDS)
        self._draining = False
        self._on_failure = on_failure
        self._failed = False
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Starts the engine's thread; the running loop gets its events."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run_engine, name=f"engine-{self._name}", daemon=True).start()

    def submit(self, request: Request) -> Stream:
        """Takes a request in, at once or not at all.

        Request ids need not be unique: the engine knows each request by a key of its own.
        Raises QueueFullError, DrainingError, DeadlineExceededError or EngineFailedError.
        """
        self._admit(request)
        key = f"{next(self._keys)}-{request.request_id}"
        stream = Stream(request.request_id, key, self._close)
        self._streams[key] = stream
        self._waiting[key] = len(request.prompt_token_ids)
        self._waiting_tokens += len(request.prompt_token_ids)
        self._metrics.waiting(len(self._waiting))
        self._engine.commands.put(Submit(dataclasses.replace(request, request_id=key)))
        return stream

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
            _log.warning("drain_cancels", model=self._name, requests=len(self._streams))
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

    def _admit(self, request: Request) -> None:
        if self._failed:
            raise EngineFailedError(request.request_id)
        if self._draining:
            raise DrainingError
        if request.deadline <= self._clock():
            raise DeadlineExceededError
        waiting, tokens = len(self._waiting), self._waiting_tokens + len(request.prompt_token_ids)
        if waiting >= self._limits.requests:
            raise QueueFullError(
                f"{waiting} requests wait already, the most that may; try again later", self._retry_after()
            )
        if waiting and tokens > self._limits.prompt_tokens:
            raise QueueFullError(
                f"with this prompt {tokens} prompt tokens would wait, and {self._limits.prompt_tokens} may; "
                "try again later",
                self._retry_after(),
            )

    def _retry_after(self) -> float:
        """Seconds until half of what waits has begun, at the pace at which requests ended of late."""
        if len(self._recent_ends) < 2:
            return _RETRY_SECONDS_UNKNOWN
        per_request = (self._clock() - self._recent_ends[0]) / len(self._recent_ends)
        least, most = _RETRY_SECONDS
        return min(most, max(least, per_request * math.ceil(len(self._waiting) / 2)))

    def _close(self, stream: Stream) -> None:
        if self._streams.pop(stream.key, None) is not None and not stream.ended:
            self._engine.commands.put(Cancel(stream.key))
            self._metrics.cancelled(self._stage(stream), "client")

    def _stage(self, stream: Stream) -> str:
        if stream.key in self._waiting:
            return "queue"
        return "prefill" if stream.last_token_at is None else "decode"

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
        generated = 0
        intervals: dict[float, int] = {}
        for event in report.events:
            stream = self._streams.get(event.request_id)
            if isinstance(event, Progress | Finished):
                generated += len(event.token_ids)
                if stream is not None:
                    _count_interval(stream, now, intervals)
            if isinstance(event, Progress):
                if stream is not None:
                    stream.push(event)
            else:
                self._change(event, stream, now)
        self._metrics.step(report, generated, intervals)

    def _change(self, event: Admitted | Finished | Cancelled, stream: Stream | None, now: float) -> None:
        """What happens once per request: it leaves the queue, it ends."""
        if isinstance(event, Cancelled) and stream is not None:
            self._metrics.cancelled(self._stage(stream), "deadline" if event.deadline_exceeded else "drain")
            stream.end(DeadlineExceededError() if event.deadline_exceeded else DrainingError())
        self._waiting_tokens -= self._waiting.pop(event.request_id, 0)
        self._metrics.waiting(len(self._waiting))
        if isinstance(event, Admitted):
            return
        self._recent_ends.append(now)
        if isinstance(event, Finished):
            self._metrics.finished(event)
            if stream is not None:
                stream.end(event)

    def _engine_ended(self, failure: BaseException | None) -> None:
        if failure is not None:
            _log.error("engine_failed", model=self._name, requests=len(self._streams), exc_info=failure)
            self._metrics.engine_failed()
            self._failed = True
            self._end_streams(lambda stream: EngineFailedError(stream.request_id))
            self._on_failure()
        self._ended.set()

    def _end_streams(self, error: Callable[[Stream], EngineFailedError | DrainingError]) -> None:
        for stream in self._streams.values():
            if not stream.ended:
                stream.end(error(stream))


def _count_interval(stream: Stream, now: float, intervals: dict[float, int]) -> None:
    if stream.last_token_at is not None:
        seconds = now - stream.last_token_at
        intervals[seconds] = intervals.get(seconds, 0) + 1
    stream.last_token_at = now
