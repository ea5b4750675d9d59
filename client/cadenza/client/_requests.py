"""From arguments to messages: what a client sends, with the client's defaults filled in. Pure."""

import dataclasses
import math
from typing import Any, Generic, TypeVar

from cadenza.client._options import (
    CallOptions,
    CompletionOptions,
    checked_call_options,
    checked_completion_options,
)
from cadenza.v1 import completion_pb2 as pb

RequestT = TypeVar("RequestT")


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedCall(Generic[RequestT]):
    """A request and the way it is to be sent."""

    request: RequestT
    target: str
    timeout: float | None
    """Seconds; None waits without end."""
    request_id: str | None
    client_id: str | None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The call's headers."""
        headers = (("x-request-id", self.request_id), ("cadenza-client-id", self.client_id))
        return tuple((name, value) for name, value in headers if value)


@dataclasses.dataclass(frozen=True, slots=True)
class Requests:
    """Builds the calls of one client. Every method raises InvalidOption."""

    target: str
    model: str
    timeout: float
    client_id: str | None = None

    def __post_init__(self) -> None:
        checked_call_options({"timeout": self.timeout, "client_id": self.client_id})

    def create(
        self, prompt: pb.Prompt, options: CompletionOptions
    ) -> PreparedCall[pb.CreateCompletionRequest]:
        """A completion in one answer."""
        checked = checked_completion_options(options)
        return self._prepared(
            pb.CreateCompletionRequest(
                model=checked.pop("model", self.model), prompt=prompt, parameters=_parameters(checked)
            ),
            checked,
        )

    def stream(
        self, prompt: pb.Prompt, options: CompletionOptions
    ) -> PreparedCall[pb.StreamCompletionRequest]:
        """A completion as a stream."""
        checked = checked_completion_options(options)
        return self._prepared(
            pb.StreamCompletionRequest(
                model=checked.pop("model", self.model), prompt=prompt, parameters=_parameters(checked)
            ),
            checked,
        )

    def count_tokens(
        self, prompt: pb.Prompt, model: str | None, options: CallOptions
    ) -> PreparedCall[pb.CountTokensRequest]:
        """The tokens of a prompt."""
        name = self.model if model is None else model
        return self.of(pb.CountTokensRequest(model=name, prompt=prompt), options)

    def model_named(self, name: str | None, options: CallOptions) -> PreparedCall[pb.GetModelRequest]:
        """The description of one model."""
        return self.of(pb.GetModelRequest(model=self.model if name is None else name), options)

    def of(self, request: RequestT, options: CallOptions) -> PreparedCall[RequestT]:
        """Any request without completion parameters."""
        return self._prepared(request, checked_call_options(options))

    def _prepared(self, request: RequestT, checked: dict[str, Any]) -> PreparedCall[RequestT]:
        timeout = checked.get("timeout", self.timeout)
        return PreparedCall(
            request=request,
            target=self.target,
            timeout=None if math.isinf(timeout) else timeout,
            request_id=checked.get("request_id"),
            client_id=checked.get("client_id", self.client_id),
        )


_NOT_PARAMETERS = frozenset(CallOptions.__annotations__) | {"model"}


def _parameters(checked: dict[str, Any]) -> pb.CompletionParameters:
    """Only what was given is set, so that the server can tell it from its defaults."""
    given = {name: value for name, value in checked.items() if name not in _NOT_PARAMETERS}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    return pb.CompletionParameters(**given)
