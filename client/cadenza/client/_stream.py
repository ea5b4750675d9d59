"""A completion as it is generated, for synchronous code."""

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

import grpc

from cadenza.client._collect import completion_from_chunks
from cadenza.client._connection import Connection
from cadenza.client._requests import PreparedCall
from cadenza.client._responses import chunk_from
from cadenza.client._results import Completion, CompletionChunk, Timing, Usage
from cadenza.client._retry import Attempts
from cadenza.client._status import cancelled_here, error_from_rpc
from cadenza.v1 import completion_pb2 as pb


class _Call(Protocol):
    """What is used of gRPC's streaming call, whose own type has no public name."""

    def __next__(self) -> pb.StreamCompletionResponse: ...
    def cancel(self) -> object: ...


class Stream:
    """An iterator of chunks and a context manager; whoever leaves it early cancels the call on the server.

    A `for` loop that ends before the stream does (`break`, an exception, Ctrl-C), leaving the `with` block,
    `cancel`, or dropping the last reference: each cancels. `next(stream)` reads one chunk and does not.
    Iterating raises CadenzaError when the call fails, and Cancelled after it was cancelled here. One thread
    reads a stream at a time.
    """

    def __init__(self, connection: Connection, prepared: PreparedCall[pb.StreamCompletionRequest]) -> None:
        self._connection = connection
        self._prepared = prepared
        self._attempts = Attempts(prepared)
        self._is_cancelled = threading.Event()
        self._chunks: list[CompletionChunk] = []
        self._call = self._begun()

    @property
    def request_id(self) -> str:
        """The id under which the server logs the call."""
        return self._prepared.request_id

    def __next__(self) -> CompletionChunk:
        while True:
            try:
                message = next(self._call)
            except grpc.RpcError as error:
                self._begin_again(error)
            except StopIteration:
                raise
            except BaseException:
                # Ctrl-C, most of all: gRPC has given the call up, and would not bear to be asked again.
                self.cancel()
                raise
            else:
                chunk = chunk_from(message)
                self._chunks.append(chunk)
                return chunk

    def __iter__(self) -> Iterator[CompletionChunk]:
        try:
            yield from iter(self.__next__, None)
        finally:
            self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def text(self) -> Iterator[str]:
        """The pieces of choice 0's text, as they come; none is empty."""
        for chunk in self:
            if chunk.text:
                yield chunk.text

    def collect(self) -> Completion:
        """Reads to the end; gives the whole answer, chunks that were read before included."""
        for _ in self:
            pass
        return completion_from_chunks(self._chunks)

    def cancel(self) -> None:
        """Ends the call on the server. May be called from any thread; nothing happens after the end."""
        self._is_cancelled.set()
        self._call.cancel()

    @property
    def usage(self) -> Usage | None:
        """What the request used; None before the end."""
        return self._chunks[-1].usage if self._chunks else None

    @property
    def timing(self) -> Timing | None:
        """Where the request's time went; None before the end."""
        return self._chunks[-1].timing if self._chunks else None

    def _begun(self) -> _Call:
        prepared = self._prepared
        return self._connection.stubs().completions.StreamCompletion(
            prepared.request, timeout=self._attempts.timeout(), metadata=prepared.metadata()
        )

    def _begin_again(self, error: grpc.RpcError) -> None:
        """Another try, after a pause. Raises the call's CadenzaError where there is none."""
        if self._chunks or self._is_cancelled.is_set():
            raise error_from_rpc(error, self._prepared) from error
        if self._is_cancelled.wait(self._attempts.pause_after(error)):
            raise cancelled_here(self._prepared)
        self._call = self._begun()
        if self._is_cancelled.is_set():
            self._call.cancel()
