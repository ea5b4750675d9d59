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
        self._stalled: set[Dispatcher] = set()
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
            if self._look():
                await self._on_change()

    def _look(self) -> bool:
        """Whether something has changed."""
        before, self._stalled = self._stalled, set(filter(self._is_stalled, self._dispatchers()))
        for dispatcher in self._stalled - before:
            seconds = round(dispatcher.step_seconds(), 3)
            _log.error("engine_stalled", model=dispatcher.name, seconds=seconds, limit=self._limit)
            dispatcher.set_stalled(True)
        for dispatcher in before - self._stalled:
            _log.warning("engine_goes_on", model=dispatcher.name)
            dispatcher.set_stalled(False)
        return self._stalled != before

    def _is_stalled(self, dispatcher: Dispatcher) -> bool:
        return dispatcher.step_seconds() > self._limit
