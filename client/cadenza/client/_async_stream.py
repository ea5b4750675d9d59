"""A completion as it is generated, for asyncio: the twin of `_stream`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio

from cadenza.client._collect import completion_from_chunks
from cadenza.client._connection import AsyncConnection
from cadenza.client._requests import PreparedCall
from cadenza.client._responses import chunk_from
from cadenza.client._results import Completion, CompletionChunk, Timing, Usage
from cadenza.client._retry import Attempts
from cadenza.client._status import cancelled_here, error_from_rpc
from cadenza.client.errors import CadenzaError
from cadenza.v1 import completion_pb2 as pb

if TYPE_CHECKING:
    _Call = grpc.aio.UnaryStreamCall[pb.StreamCompletionRequest, pb.StreamCompletionResponse]


class AsyncStream:
    """An async iterator of chunks and an async context manager; otherwise as `Stream`.

    An `async for` loop that ends early cancels the call, as does cancelling the task that reads.
    """

    def __init__(
        self, connection: AsyncConnection, prepared: PreparedCall[pb.StreamCompletionRequest]
    ) -> None:
        self._connection = connection
        self._prepared = prepared
        self._attempts = Attempts(prepared)
        self._is_cancelled = asyncio.Event()
        self._chunks: list[CompletionChunk] = []
        self._failure: CadenzaError | None = None
        self._call: _Call | None = None
        self._begin()

    @property
    def request_id(self) -> str:
        """The id under which the server logs the call."""
        return self._prepared.request_id

    async def __anext__(self) -> CompletionChunk:
        while self._failure is None:
            try:
                message = await anext(self._messages)
            except grpc.RpcError as error:
                await self._begin_again(error)
            except asyncio.CancelledError:
                self._failure = cancelled_here(self._prepared)
                if task_is_cancelled():
                    raise
            else:
                chunk = chunk_from(message)
                self._chunks.append(chunk)
                return chunk
        raise self._failure

    async def __aiter__(self) -> AsyncIterator[CompletionChunk]:
        try:
            while True:
                try:
                    chunk = await self.__anext__()
                except StopAsyncIteration:
                    return
                yield chunk
        finally:
            self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        if self._call is not None:
            self._call.cancel()

    async def text(self) -> AsyncIterator[str]:
        """The pieces of choice 0's text, as they come; none is empty."""
        async for chunk in self:
            if chunk.text:
                yield chunk.text

    async def collect(self) -> Completion:
        """Reads to the end; gives the whole answer, chunks that were read before included."""
        async for _ in self:
            pass
        return completion_from_chunks(self._chunks)

    def cancel(self) -> None:
        """Ends the call on the server; nothing happens after the end."""
        self._is_cancelled.set()
        if self._call is not None and self._call.cancel():
            self._failure = cancelled_here(self._prepared)

    @property
    def usage(self) -> Usage | None:
        """What the request used; None before the end."""
        return self._chunks[-1].usage if self._chunks else None

    @property
    def timing(self) -> Timing | None:
        """Where the request's time went; None before the end."""
        return self._chunks[-1].timing if self._chunks else None

    def _begin(self) -> None:
        prepared = self._prepared
        self._call = self._connection.stubs().completions.StreamCompletion(
            prepared.request, timeout=self._attempts.timeout(), metadata=prepared.metadata()
        )
        self._messages = aiter(self._call)

    async def _begin_again(self, error: grpc.RpcError) -> None:
        """Another try, after a pause; where there is none, notes the failure and raises it."""
        try:
            if self._chunks:
                raise error_from_rpc(error, self._prepared) from error
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._attempts.pause_after(error)):
                    await self._is_cancelled.wait()
            if self._is_cancelled.is_set():
                raise cancelled_here(self._prepared) from error
            self._begin()
        except CadenzaError as failure:
            self._failure = failure
            raise


def task_is_cancelled() -> bool:
    """Whether a CancelledError is for the running task, or only says that its call was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
