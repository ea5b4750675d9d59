"""Runs coroutines so that Ctrl-C cancels them, and their calls with them.

asyncio's own handler can miss an interrupt that comes just before the loop goes to sleep, and a
KeyboardInterrupt inside gRPC's synchronous waiting can leave its locks in disorder. A signal handler of
the event loop does neither.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run(
    coroutine: Coroutine[Any, Any, _T], new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> _T:
    """Runs it on an event loop of its own, asyncio's if not `new_loop`'s.

    Raises KeyboardInterrupt when Ctrl-C cancelled it.
    """
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return run_on(runner, coroutine)


def run_on(runner: asyncio.Runner, coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Runs it on this runner's loop. Raises KeyboardInterrupt when Ctrl-C cancelled it."""
    try:
        return runner.run(_cancelled_by_interrupt(coroutine))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _cancelled_by_interrupt(coroutine: Coroutine[Any, Any, _T]) -> _T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(coroutine)
    # Where loops have no signal handlers (Windows, other threads than the main one) asyncio's own stays.
    with contextlib.suppress(NotImplementedError, RuntimeError):
        loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        return await task
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
