"""The loop's end of one request: events go in as steps end, answers come out as fast as they are taken.

What is not taken is merged, so a slow reader holds at most one completion and gets fewer, larger parts.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cadenza.server.engine.request import Finished, Progress
from cadenza.server.errors import RequestError


class Stream:
    """One submitted request. A context manager: leaving it before the end cancels the request."""

    def __init__(self, request_id: str, key: str, on_close: Callable[["Stream"], None]) -> None:
        """`request_id` is the caller's, `key` the engine's."""
        self.request_id = request_id
        self.key = key
        self.last_token_at: float | None = None
        """Seconds on the engine's clock; None before the first token."""
        self._on_close = on_close
        self._token_ids: list[int] = []
        self._text: list[str] = []
        self._end: Finished | RequestError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wants_end_only = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def ended(self) -> bool:
        """Whether the last event has come."""
        return self._end is not None

    async def next_part(self) -> Progress | Finished:
        """All that is new, waiting for something to be; Finished is the last part.

        Raises RequestError where the request ended without an answer.
        """
        if not self._token_ids and self._end is None:
            await self._wait()
        if isinstance(self._end, RequestError):
            raise self._end
        if self._end is None:
            token_ids, text = self._take()
            return Progress(self.key, token_ids, text)
        if not self._token_ids:
            return self._end
        token_ids, text = self._take()
        return dataclasses.replace(
            self._end, token_ids=token_ids + self._end.token_ids, text=text + self._end.text
        )

    async def result(self) -> Finished:
        """The whole completion. Raises RequestError where the request ended without an answer."""
        self._wants_end_only = True
        if self._end is None:
            await self._wait()
        part = await self.next_part()
        if not isinstance(part, Finished):
            raise TypeError("a stream that was waited for to its end has not ended")
        return part

    def push(self, event: Progress) -> None:
        """Adds a step's tokens and text."""
        self._token_ids.extend(event.token_ids)
        if event.text:
            self._text.append(event.text)
        if not self._wants_end_only:
            self._wake()

    def end(self, end: Finished | RequestError) -> None:
        """Adds the last event, or the error that takes its place."""
        self._end = end
        self._wake()

    def close(self) -> None:
        """Ends the caller's interest; the request is cancelled where it has not ended."""
        self._on_close(self)

    def _take(self) -> tuple[tuple[int, ...], str]:
        token_ids, text = tuple(self._token_ids), "".join(self._text)
        self._token_ids.clear()
        self._text.clear()
        return token_ids, text

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
