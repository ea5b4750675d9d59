"""The client for asyncio: the twin of `_client`, method by method."""

import asyncio
import copy
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from cadenza.client._async_stream import AsyncStream, task_is_cancelled
from cadenza.client._connection import AsyncConnection, AsyncStubs
from cadenza.client._health import POLL_SECONDS, ReadyWait, status_from
from cadenza.client._options import CallOptions, CompletionOptions
from cadenza.client._prompt import Messages, Prompt, chat_from, prompt_from, prompt_or_chat_from
from cadenza.client._requests import PreparedCall, Requests
from cadenza.client._responses import completion_from, model_from, models_from, token_count_from
from cadenza.client._results import Completion, Model, ServingStatus, TokenCount
from cadenza.client._retry import Attempts
from cadenza.client._settings import ClientOptions, settings_from
from cadenza.client._status import cancelled_here
from cadenza.v1 import completion_pb2 as pb

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")


class AsyncClient:
    """`Client` for asyncio: the same calls, to be awaited; `stream` and `stream_chat` return at once.

    Use it on one event loop.
    """

    def __init__(self, target: str | None = None, **options: Unpack[ClientOptions]) -> None:
        settings = settings_from(target, options, os.environ)
        self._requests = Requests.by(settings)
        self._connection = AsyncConnection(settings)

    def with_options(self, **options: Unpack[CompletionOptions]) -> Self:
        """The same client with other defaults. The two share their connection: closing one closes both."""
        twin = copy.copy(self)
        twin._requests = self._requests.with_options(options)  # noqa: SLF001 - ours
        return twin

    async def complete(self, prompt: Prompt, **options: Unpack[CompletionOptions]) -> Completion:
        """Completes text or token ids; returns when every choice has ended."""
        return await self._create(prompt_from(prompt), options)

    async def chat(self, messages: Messages, **options: Unpack[CompletionOptions]) -> Completion:
        """Answers a conversation; returns when every choice has ended."""
        return await self._create(chat_from(messages), options)

    def stream(self, prompt: Prompt, **options: Unpack[CompletionOptions]) -> AsyncStream:
        """Completes text or token ids; the stream gives the answer as it is generated."""
        return self._stream(prompt_from(prompt), options)

    def stream_chat(self, messages: Messages, **options: Unpack[CompletionOptions]) -> AsyncStream:
        """Answers a conversation; the stream gives the answer as it is generated."""
        return self._stream(chat_from(messages), options)

    async def count_tokens(
        self, prompt: Prompt | Messages, *, model: str | None = None, **options: Unpack[CallOptions]
    ) -> TokenCount:
        """Counts the tokens of text, token ids or messages, as the model would read them."""
        prepared = self._requests.count_tokens(prompt_or_chat_from(prompt), model, options)
        return token_count_from(await self._call(lambda stubs: stubs.completions.CountTokens, prepared))

    async def models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """The models that the server has loaded."""
        prepared = self._requests.of(pb.ListModelsRequest(), options)
        return models_from(await self._call(lambda stubs: stubs.completions.ListModels, prepared))

    async def model(self, name: str | None = None, **options: Unpack[CallOptions]) -> Model:
        """The model of this name; the client's where none is given."""
        prepared = self._requests.model_named(name, options)
        return model_from((await self._call(lambda stubs: stubs.completions.GetModel, prepared)).model)

    async def health(self, service: str = "", **options: Unpack[CallOptions]) -> ServingStatus:
        """What grpc.health.v1 says of the server, or of one of its services."""
        prepared = self._requests.of(StringValue(value=service), options)
        return status_from(await self._call(lambda stubs: stubs.check, prepared))

    async def wait_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as in Client
        """Waits until the server is there and SERVING; it need not have been started yet.

        Raises DeadlineExceeded after `timeout` seconds; the client's timeout where none is given.
        """
        limit = self._requests.timeout if timeout is None else timeout
        prepared = self._requests.of(StringValue(), {"timeout": limit})
        wait = ReadyWait(prepared, limit)
        while not await self._is_ready(wait):  # noqa: ASYNC110 - the other side is a server
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _is_ready(self, wait: ReadyWait) -> bool:
        """One round of `wait_ready`."""
        stubs, request = self._connection.stubs(), StringValue()
        try:
            await stubs.balanced_check(request, **wait.next_round(), wait_for_ready=True)
        except grpc.RpcError as error:
            wait.failed(error)
        else:
            return True
        try:
            wait.answered(await stubs.check(request, **wait.next_check()))
        except grpc.RpcError as error:
            wait.failed(error)
        return False

    async def _create(self, prompt: pb.Prompt, options: CompletionOptions) -> Completion:
        prepared = self._requests.create(prompt, options)
        return completion_from(await self._call(lambda stubs: stubs.completions.CreateCompletion, prepared))

    def _stream(self, prompt: pb.Prompt, options: CompletionOptions) -> AsyncStream:
        prepared = self._requests.stream(prompt, options)
        return AsyncStream(self._connection, prepared)

    async def _call(
        self,
        method: "Callable[[AsyncStubs], grpc.aio.UnaryUnaryMultiCallable[_RequestT, _ResponseT]]",
        prepared: PreparedCall[Any],
    ) -> _ResponseT:
        attempts = Attempts(prepared)
        while True:
            try:
                return await method(self._connection.stubs())(
                    prepared.request, timeout=attempts.timeout(), metadata=prepared.metadata()
                )
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.pause_after(error))
            except asyncio.CancelledError:
                if task_is_cancelled():
                    raise
                raise cancelled_here(prepared) from None
