"""The loop's end of one request: events go in as steps end, answers come out as fast as they are taken.

What is not taken is merged, so a slow reader holds at most one answer and gets fewer, larger parts.
"""

import asyncio
import dataclasses
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cadenza.server.account import Account
from cadenza.server.engine.request import Finished, FinishReason, Progress, Request, TokenLogprob
from cadenza.server.errors import RequestError


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """All that is new of a request."""

    choices: tuple[Progress, ...]
    """At most one per choice, by index; none only where the last part holds nothing but `finished`."""
    finished: Finished | None = None
    """Set in the last part."""


class Stream:
    """One submitted request. A context manager: leaving it before the end cancels the request."""

    def __init__(self, request: Request, key: str, on_close: Callable[["Stream"], None]) -> None:
        """`request` has the caller's id, `key` is the engine's."""
        self.request_id = request.request_id
        self.key = key
        self.account = Account(request)
        self.last_token_at: dict[int, float] = {}
        """By choice, seconds on the engine's clock; a choice without a token is not in it."""
        self._is_told = False
        """Whether the reader may have what is unread."""
        self._told_at = -math.inf
        self._on_close = on_close
        self._unread: dict[int, _Unread] = {}
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

    async def next_part(self) -> Part:
        """All that is new, waiting for something to be.

        Raises RequestError where the request ended without an answer.
        """
        if not self._is_told and self._end is None:
            await self._wait()
        if isinstance(self._end, RequestError):
            raise self._end
        unread, self._unread = self._unread, {}
        self._is_told = False
        return Part(tuple(unread[choice].merged(self.key, choice) for choice in sorted(unread)), self._end)

    async def result(self) -> Part:
        """The whole answer. Raises RequestError where the request ended without one."""
        self._wants_end_only = True
        if self._end is None:
            await self._wait()
        return await self.next_part()

    def push(self, event: Progress, now: float = 0.0, spacing: float = 0.0) -> None:
        """Adds what a step brought to one choice at `now`.

        The reader is told where it was not told within `spacing` seconds, and of a choice's end; else what is
        new waits for the next push. What goes on without pushes is to be followed by `tell`.
        """
        unread = self._unread.get(event.choice)
        if unread is None:
            unread = self._unread[event.choice] = _Unread()
        unread.add(event)
        if now - self._told_at >= spacing or event.finish_reason is not None:
            self._told_at = now
            self.tell()

    def tell(self) -> None:
        """Tells the reader of what is new, if anything is."""
        if self._unread and not self._wants_end_only:
            self._is_told = True
            self._wake()

    def end(self, end: Finished | RequestError) -> None:
        """Adds the last event, or the error that takes its place."""
        self._end = end
        self._wake()

    def close(self) -> None:
        """Ends the caller's interest; the request is cancelled where it has not ended."""
        self._on_close(self)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Unread:
    """What is new of one choice."""

    __slots__ = ("finish_reason", "logprobs", "prompt_logprobs", "text", "token_ids")

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None

    def add(self, event: Progress) -> None:
        self.token_ids += event.token_ids
        self.text.append(event.text)
        self.logprobs += event.logprobs
        self.prompt_logprobs += event.prompt_logprobs
        self.finish_reason = event.finish_reason

    def merged(self, key: str, choice: int) -> Progress:
        return Progress(
            key,
            choice,
            tuple(self.token_ids),
            "".join(self.text),
            tuple(self.logprobs),
            tuple(self.prompt_logprobs),
            self.finish_reason,
        )
