"""The client for synchronous code. What it shares with its asyncio twin lies in the modules it imports."""

import time
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cadenza.client._channel import CHANNEL_OPTIONS, DEFAULT_TARGET, DEFAULT_TIMEOUT
from cadenza.client._health import CHECK_METHOD, POLL_SECONDS, ReadyWait, status_from
from cadenza.client._options import CallOptions, CompletionOptions
from cadenza.client._prompt import Messages, Prompt, chat_from, prompt_from, prompt_or_chat_from
from cadenza.client._requests import PreparedCall, Requests
from cadenza.client._responses import completion_from, model_from, models_from, token_count_from
from cadenza.client._results import Completion, Model, ServingStatus, TokenCount
from cadenza.client._status import error_from_rpc
from cadenza.client._stream import Stream
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1.completion_pb2_grpc import CompletionServiceStub

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")


class Client:
    """Calls a Cadenza server. Threads may share one client; close it, or use it in a `with` block.

    `model` names the model of calls that do not; it may stay empty where the server has one model.
    `timeout`, in seconds, holds for calls that give none; math.inf waits without end. `client_id` is between
    whom the server shares its work fairly: the address it sees, where none is given. Connecting happens
    with the first call. Every call raises CadenzaError, of the kind that `cadenza.client.errors` draws.
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
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._stub = CompletionServiceStub(self._channel)
        self._check: grpc.UnaryUnaryMultiCallable[StringValue, Int32Value] = self._channel.unary_unary(
            CHECK_METHOD,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )

    def complete(self, prompt: Prompt, **options: Unpack[CompletionOptions]) -> Completion:
        """Completes text or token ids; returns when every choice has ended."""
        return self._create(prompt_from(prompt), options)

    def chat(self, messages: Messages, **options: Unpack[CompletionOptions]) -> Completion:
        """Answers a conversation; returns when every choice has ended."""
        return self._create(chat_from(messages), options)

    def stream(self, prompt: Prompt, **options: Unpack[CompletionOptions]) -> Stream:
        """Completes text or token ids; the stream gives the answer as it is generated."""
        return self._stream(prompt_from(prompt), options)

    def stream_chat(self, messages: Messages, **options: Unpack[CompletionOptions]) -> Stream:
        """Answers a conversation; the stream gives the answer as it is generated."""
        return self._stream(chat_from(messages), options)

    def count_tokens(
        self, prompt: Prompt | Messages, *, model: str | None = None, **options: Unpack[CallOptions]
    ) -> TokenCount:
        """Counts the tokens of text, token ids or messages, as the model would read them."""
        prepared = self._requests.count_tokens(prompt_or_chat_from(prompt), model, options)
        return token_count_from(self._call(self._stub.CountTokens, prepared))

    def models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """The models that the server has loaded."""
        return models_from(
            self._call(self._stub.ListModels, self._requests.of(pb.ListModelsRequest(), options))
        )

    def model(self, name: str | None = None, **options: Unpack[CallOptions]) -> Model:
        """The model of this name; the client's where none is given."""
        response = self._call(self._stub.GetModel, self._requests.model_named(name, options))
        return model_from(response.model)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> ServingStatus:
        """What grpc.health.v1 says of the server, or of one of its services."""
        return status_from(self._call(self._check, self._requests.of(StringValue(value=service), options)))

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the server is there and SERVING; it need not have been started yet.

        Raises DeadlineExceeded after `timeout` seconds; the client's timeout where none is given.
        """
        limit = self._requests.timeout if timeout is None else timeout
        prepared = self._requests.of(StringValue(), {"timeout": limit})
        wait = ReadyWait(prepared, limit)
        while True:
            try:
                if wait.is_ready(
                    self._check(prepared.request, timeout=wait.check_timeout(), wait_for_ready=True)
                ):
                    return
            except grpc.RpcError as error:
                wait.failed(error)
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _create(self, prompt: pb.Prompt, options: CompletionOptions) -> Completion:
        return completion_from(
            self._call(self._stub.CreateCompletion, self._requests.create(prompt, options))
        )

    def _stream(self, prompt: pb.Prompt, options: CompletionOptions) -> Stream:
        prepared = self._requests.stream(prompt, options)
        call = self._stub.StreamCompletion(
            prepared.request, timeout=prepared.timeout, metadata=prepared.metadata
        )
        return Stream(call, prepared)

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[_RequestT, _ResponseT]", prepared: PreparedCall[Any]
    ) -> _ResponseT:
        try:
            return method(prepared.request, timeout=prepared.timeout, metadata=prepared.metadata)
        except grpc.RpcError as error:
            raise error_from_rpc(error, prepared) from error
