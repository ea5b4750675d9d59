"""The client for asyncio: the twin of `_client`, method by method."""

import asyncio
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cadenza.client._async_stream import AsyncStream, task_is_cancelled
from cadenza.client._channel import CHANNEL_OPTIONS, DEFAULT_TARGET, DEFAULT_TIMEOUT
from cadenza.client._health import CHECK_METHOD, POLL_SECONDS, ReadyWait, status_from
from cadenza.client._options import CallOptions, CompletionOptions
from cadenza.client._prompt import Messages, Prompt, chat_from, prompt_from, prompt_or_chat_from
from cadenza.client._requests import PreparedCall, Requests
from cadenza.client._responses import completion_from, model_from, models_from, token_count_from
from cadenza.client._results import Completion, Model, ServingStatus, TokenCount
from cadenza.client._status import cancelled_here, error_from_rpc
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1.completion_pb2_grpc import CompletionServiceStub

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")


class AsyncClient:
    """`Client` for asyncio: the same calls, to be awaited; `stream` and `stream_chat` return at once.

    Make and use it on one event loop.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        model: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        client_id: str | None = None,
    ) -> None:
        self._requests = Requests(target=target, model=model, timeout=timeout, client_id=client_id)
        self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._stub = CompletionServiceStub(self._channel)
        self._check: grpc.aio.UnaryUnaryMultiCallable[StringValue, Int32Value] = self._channel.unary_unary(
            CHECK_METHOD,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )

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
        return token_count_from(await self._call(self._stub.CountTokens, prepared))

    async def models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """The models that the server has loaded."""
        return models_from(
            await self._call(self._stub.ListModels, self._requests.of(pb.ListModelsRequest(), options))
        )

    async def model(self, name: str | None = None, **options: Unpack[CallOptions]) -> Model:
        """The model of this name; the client's where none is given."""
        response = await self._call(self._stub.GetModel, self._requests.model_named(name, options))
        return model_from(response.model)

    async def health(self, service: str = "", **options: Unpack[CallOptions]) -> ServingStatus:
        """What grpc.health.v1 says of the server, or of one of its services."""
        return status_from(
            await self._call(self._check, self._requests.of(StringValue(value=service), options))
        )

    async def wait_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as in Client
        """Waits until the server is there and SERVING; it need not have been started yet.

        Raises DeadlineExceeded after `timeout` seconds; the client's timeout where none is given.
        """
        limit = self._requests.timeout if timeout is None else timeout
        prepared = self._requests.of(StringValue(), {"timeout": limit})
        wait = ReadyWait(prepared, limit)
        while True:
            try:
                if wait.is_ready(
                    await self._check(prepared.request, timeout=wait.check_timeout(), wait_for_ready=True)
                ):
                    return
            except grpc.RpcError as error:
                wait.failed(error)
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _create(self, prompt: pb.Prompt, options: CompletionOptions) -> Completion:
        return completion_from(
            await self._call(self._stub.CreateCompletion, self._requests.create(prompt, options))
        )

    def _stream(self, prompt: pb.Prompt, options: CompletionOptions) -> AsyncStream:
        prepared = self._requests.stream(prompt, options)
        call = self._stub.StreamCompletion(
            prepared.request, timeout=prepared.timeout, metadata=prepared.metadata
        )
        return AsyncStream(call, prepared)

    async def _call(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[_RequestT, _ResponseT]", prepared: PreparedCall[Any]
    ) -> _ResponseT:
        try:
            return await method(prepared.request, timeout=prepared.timeout, metadata=prepared.metadata)
        except grpc.RpcError as error:
            raise error_from_rpc(error, prepared) from error
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise cancelled_here(prepared) from None
