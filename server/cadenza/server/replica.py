"""One engine on one device: its thread, and what the loop knows of the requests it has.

All state here but the engine belongs to the loop. The engine's thread is reached by its command queue, and it
reaches the loop by one `call_soon_threadsafe` per step.
"""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from cadenza.server.admission import Place
from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Cancel, Drain, Request, StepReport, Submit
from cadenza.server.pace import Pace
from cadenza.server.runner.base import Runner


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A request whose first step has begun; the time is seconds on the engine's clock."""

    priority: int
    begun: float


class Listener(Protocol):
    """Whom a replica tells, on the loop, what its engine did."""

    def deliver(self, replica: "Replica", report: StepReport, now: float) -> None:
        """A step has ended."""

    def engine_ended(self, replica: "Replica", failure: BaseException | None) -> None:
        """The engine has stopped: drained, or broken by this."""


class Replica:
    """Runs one engine in a thread of its own."""

    def __init__(
        self,
        runner: Runner,
        token_bytes: Sequence[bytes],
        *,
        name: str,
        options: EngineOptions,
        clock: Callable[[], float],
        listener: Listener,
    ) -> None:
        """`clock` gives seconds that never go back; `name` is the thread's."""
        self.pace = Pace(runner.limits)
        self.waiting: dict[str, Place] = {}
        self.running: dict[str, Running] = {}
        """Requests whose first step has begun, first to last."""
        self.last_report: StepReport | None = None
        self.broken = False
        self.ended = asyncio.Event()
        self._choices: dict[str, int] = {}
        """How many each request that has not ended asked for."""
        self._name = name
        self._runner = runner
        self._engine = Engine(runner, token_bytes, options=options, clock=clock, report=self._report)
        self._clock = clock
        self._listener = listener

    @property
    def sequences(self) -> int:
        """Of requests that wait or run."""
        return sum(self._choices.values())

    def start(self) -> None:
        """Starts the engine's thread; the running loop gets its events."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run_engine, name=self._name, daemon=True).start()

    def submit(self, request: Request, place: Place) -> None:
        """Gives the engine a request, which waits in `place` for its first step."""
        self._choices[request.request_id] = request.n
        self.waiting[request.request_id] = place
        self._engine.commands.put(Submit(request))

    def cancel(self, key: str) -> None:
        """The request of this key, if there is one, is to end."""
        self._engine.commands.put(Cancel(key))

    def drain(self) -> None:
        """The engine stops when it has finished what it has."""
        self._engine.commands.put(Drain())

    def forget(self, key: str) -> None:
        """The engine has ended this request."""
        self.running.pop(key, None)
        self._choices.pop(key, None)

    def step_seconds(self) -> float:
        """How long the step that now runs has been running; 0 where none runs."""
        began = self._engine.step_began
        return 0.0 if began is None else self._clock() - began

    def _report(self, report: StepReport) -> None:
        """Called by the engine's thread."""
        self._loop.call_soon_threadsafe(self._deliver, report, self._clock())

    def _deliver(self, report: StepReport, now: float) -> None:
        self.last_report = report
        self._listener.deliver(self, report, now)

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

    def _engine_ended(self, failure: BaseException | None) -> None:
        self.broken = failure is not None
        if self.broken:
            self.last_report = None
        self._listener.engine_ended(self, failure)
        self.ended.set()
