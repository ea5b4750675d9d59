"""The client for synchronous code. What it shares with its asyncio twin lies in the modules it imports."""

import copy
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from cadenza.client._connection import Connection, Stubs
from cadenza.client._health import POLL_SECONDS, ReadyWait, status_from
from cadenza.client._options import CallOptions, CompletionOptions
from cadenza.client._prompt import Messages, Prompt, chat_from, prompt_from, prompt_or_chat_from
from cadenza.client._requests import PreparedCall, Requests
from cadenza.client._responses import completion_from, model_from, models_from, token_count_from
from cadenza.client._results import Completion, Model, ServingStatus, TokenCount
from cadenza.client._retry import Attempts
from cadenza.client._settings import ClientOptions, settings_from
from cadenza.client._stream import Stream
from cadenza.v1 import completion_pb2 as pb

_RequestT = TypeVar("_RequestT")
_ResponseT = TypeVar("_ResponseT")


class Client:
    """Calls a Cadenza server. Threads may share one client; close it, or use it in a `with` block.

    `target` is HOST:PORT, or a name as gRPC has them: dns:///HOST:PORT, ipv4:ADDRESS:PORT,ADDRESS:PORT,
    unix:PATH. Calls go round robin to all its addresses that serve. What is neither given here nor in the
    environment (CADENZA_TARGET, CADENZA_TIMEOUT, ...) has a default: localhost:8500, 60 seconds, 4 retries.
    Connecting happens with the first call. Calls raise CadenzaError, of the kind that
    `cadenza.client.errors` draws.
    """

    def __init__(self, target: str | None = None, **options: Unpack[ClientOptions]) -> None:
        settings = settings_from(target, options, os.environ)
        self._requests = Requests.by(settings)
        self._connection = Connection(settings)

    def with_options(self, **options: Unpack[CompletionOptions]) -> Self:
        """The same client with other defaults. The two share their connection: closing one closes both."""
        twin = copy.copy(self)
        twin._requests = self._requests.with_options(options)  # noqa: SLF001 - ours
        return twin

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
        return token_count_from(self._call(lambda stubs: stubs.completions.CountTokens, prepared))

    def models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """The models that the server has loaded."""
        prepared = self._requests.of(pb.ListModelsRequest(), options)
        return models_from(self._call(lambda stubs: stubs.completions.ListModels, prepared))

    def model(self, name: str | None = None, **options: Unpack[CallOptions]) -> Model:
        """The model of this name; the client's where none is given."""
        prepared = self._requests.model_named(name, options)
        return model_from(self._call(lambda stubs: stubs.completions.GetModel, prepared).model)

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> ServingStatus:
        """What grpc.health.v1 says of the server, or of one of its services."""
        prepared = self._requests.of(StringValue(value=service), options)
        return status_from(self._call(lambda stubs: stubs.check, prepared))

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the server is there and SERVING; it need not have been started yet.

        Raises DeadlineExceeded after `timeout` seconds; the client's timeout where none is given.
        """
        limit = self._requests.timeout if timeout is None else timeout
        prepared = self._requests.of(StringValue(), {"timeout": limit})
        wait = ReadyWait(prepared, limit)
        while not self._is_ready(wait):
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _is_ready(self, wait: ReadyWait) -> bool:
        """One round of `wait_ready`."""
        stubs, request = self._connection.stubs(), StringValue()
        try:
            stubs.balanced_check(request, **wait.next_round(), wait_for_ready=True)
        except grpc.RpcError as error:
            wait.failed(error)
        else:
            return True
        try:
            wait.answered(stubs.check(request, **wait.next_check()))
        except grpc.RpcError as error:
            wait.failed(error)
        return False

    def _create(self, prompt: pb.Prompt, options: CompletionOptions) -> Completion:
        prepared = self._requests.create(prompt, options)
        return completion_from(self._call(lambda stubs: stubs.completions.CreateCompletion, prepared))

    def _stream(self, prompt: pb.Prompt, options: CompletionOptions) -> Stream:
        prepared = self._requests.stream(prompt, options)
        return Stream(self._connection, prepared)

    def _call(
        self,
        method: "Callable[[Stubs], grpc.UnaryUnaryMultiCallable[_RequestT, _ResponseT]]",
        prepared: PreparedCall[Any],
    ) -> _ResponseT:
        attempts = Attempts(prepared)
        while True:
            try:
                return method(self._connection.stubs())(
                    prepared.request, timeout=attempts.timeout(), metadata=prepared.metadata()
                )
            except grpc.RpcError as error:
                time.sleep(attempts.pause_after(error))
