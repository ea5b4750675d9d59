"""Notices an engine whose step does not end, for health to say so: nothing can interrupt such a step."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from cadenza.server.dispatch import Dispatcher

_log = structlog.get_logger(__name__)
_CHECKS_PER_LIMIT = 10
_LONGEST_PAUSE_SECONDS = 1.0


class Watchdog:
    """Looks at engines regularly, as one task of the running loop."""

    def __init__(
        self,
        dispatchers: Callable[[], Iterable[Dispatcher]],
        *,
        limit: float,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        """`limit` is in seconds. `on_change` is awaited when an engine has stalled or goes on again."""
        self._dispatchers = dispatchers
        self._limit = limit
        self._on_change = on_change
        self._stalled: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def stalled(self) -> bool:
        """Whether a step of any engine has been running for longer than the limit."""
        return bool(self._stalled)

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _watch(self) -> None:
        pause = min(self._limit / _CHECKS_PER_LIMIT, _LONGEST_PAUSE_SECONDS)
        while True:
            await asyncio.sleep(pause)
            changes = [self._look_at(dispatcher) for dispatcher in self._dispatchers()]
            if any(changes):
                await self._on_change()

    def _look_at(self, dispatcher: Dispatcher) -> bool:
        """Whether something has changed."""
        seconds, name = dispatcher.step_seconds(), dispatcher.name
        stalled = seconds > self._limit
        if stalled == (name in self._stalled):
            return False
        if stalled:
            self._stalled.add(name)
            _log.error("engine_stalled", model=name, seconds=round(seconds, 3), limit=self._limit)
        else:
            self._stalled.remove(name)
            _log.warning("engine_goes_on", model=name)
        dispatcher.set_stalled(stalled)
        return True
