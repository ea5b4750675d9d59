"""The connection of a load, and one request of it on the wire."""

import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from cadenza.client import CadenzaError
from cadenza.client._connection import AsyncConnection, AsyncStubs
from cadenza.client._requests import Requests
from cadenza.client._settings import Settings
from cadenza.client._status import error_from_rpc
from cadenza.load._clock import Clock
from cadenza.load._counts import FAILED, FINISHED, SENT, TOKENS, Slots
from cadenza.load._record import RequestRecord
from cadenza.v1 import completion_pb2 as pb

_CONNECT_SECONDS: Final = 15.0


class LoadError(Exception):
    """A load could not be run to its end."""


@contextlib.asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncStubs]:
    """A connection of its own, once the server answers on it. Raises LoadError where it does not."""
    connection = AsyncConnection(settings)
    try:
        stubs = connection.stubs()
        try:
            await stubs.balanced_check(StringValue(), timeout=_CONNECT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # it answers, if not about its health
                raise LoadError(f"{settings.target} is not ready: {error.details()}") from None
        yield stubs
    finally:
        await connection.close()


class Sender:
    """Sends requests and notes when what came.

    It leaves out what the SDK does for applications: an answer is counted and dropped, and nothing is sent
    twice, so that each failure is seen.
    """

    def __init__(self, settings: Settings, stubs: AsyncStubs, clock: Clock, counts: Slots) -> None:
        self._stream = stubs.completions.StreamCompletion
        self._prepared = Requests.by(settings).of(b"", {})
        self._run_id = uuid.uuid4().hex[:8]
        self._clock = clock
        self._counts = counts

    async def send(
        self,
        request: pb.StreamCompletionRequest,
        record: RequestRecord,
        on_first_token: Callable[[], None] | None = None,
    ) -> None:
        """Makes the call and fills the record; returns when the stream has ended, however."""
        self._counts[SENT] += 1
        record.sent = self._clock.now()
        try:
            await self._read(request, record, on_first_token)
        except grpc.RpcError as error:
            record.error = error_from_rpc(error, self._prepared).reason
        except CadenzaError as error:  # there is no token to send
            record.error = error.reason
        if record.error:
            self._counts[FAILED] += 1
        else:
            self._counts[FINISHED] += 1
        record.end = self._clock.now()

    async def _read(
        self,
        request: pb.StreamCompletionRequest,
        record: RequestRecord,
        on_first_token: Callable[[], None] | None,
    ) -> None:
        prepared = dataclasses.replace(self._prepared, request_id=f"load-{self._run_id}-{record.index}")
        call = self._stream(request, timeout=prepared.timeout, metadata=prepared.metadata())
        while isinstance(response := await call.read(), pb.StreamCompletionResponse):
            at = self._clock.now()
            if tokens := sum([len(choice.token_ids) for choice in response.choices]):
                if on_first_token is not None and not record.messages:
                    on_first_token()
                record.messages.append(at, tokens)
                self._counts[TOKENS] += tokens
            if response.HasField("usage"):
                _note_usage(response, record)


def _note_usage(response: pb.StreamCompletionResponse, record: RequestRecord) -> None:
    record.prompt_tokens = response.usage.prompt_tokens
    record.cached_tokens = response.usage.cached_prompt_tokens
    if response.timing.HasField("queue"):
        record.queue = response.timing.queue.ToNanoseconds() / 1e9
