"""A completion as it is generated, for asyncio: the twin of `_stream`."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from cadenza.client._collect import completion_from_chunks
from cadenza.client._requests import PreparedCall
from cadenza.client._responses import chunk_from
from cadenza.client._results import Completion, CompletionChunk, Timing, Usage
from cadenza.client._status import cancelled_here, error_from_rpc
from cadenza.client.errors import CadenzaError
from cadenza.v1 import completion_pb2 as pb


class AsyncStream:
    """An async iterator of chunks and an async context manager; otherwise as `Stream`.

    An `async for` loop that ends early cancels the call, as does cancelling the task that reads.
    """

    def __init__(
        self,
        call: "grpc.aio.UnaryStreamCall[pb.StreamCompletionRequest, pb.StreamCompletionResponse]",
        prepared: PreparedCall[pb.StreamCompletionRequest],
    ) -> None:
        self._call = call
        self._messages = aiter(call)
        self._prepared = prepared
        self._chunks: list[CompletionChunk] = []
        self._failure: CadenzaError | None = None

    async def __anext__(self) -> CompletionChunk:
        if self._failure is not None:
            raise self._failure
        try:
            message = await anext(self._messages)
        except grpc.RpcError as error:
            self._failure = error_from_rpc(error, self._prepared)
            raise self._failure from error
        except asyncio.CancelledError:
            self._failure = cancelled_here(self._prepared)
            if task_is_cancelled():
                raise
            raise self._failure from None
        chunk = chunk_from(message)
        self._chunks.append(chunk)
        return chunk

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
        if self._call.cancel():
            self._failure = cancelled_here(self._prepared)

    @property
    def usage(self) -> Usage | None:
        """What the request used; None before the end."""
        return self._chunks[-1].usage if self._chunks else None

    @property
    def timing(self) -> Timing | None:
        """Where the request's time went; None before the end."""
        return self._chunks[-1].timing if self._chunks else None


def task_is_cancelled() -> bool:
    """Whether a CancelledError is for the running task, or only says that its call was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
