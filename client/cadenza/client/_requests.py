"""From arguments to messages: what a client sends, with the client's defaults filled in."""

import dataclasses
import math
import uuid
from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

from cadenza.client._options import (
    CallOptions,
    CompletionOptions,
    checked_call_options,
    checked_completion_options,
)
from cadenza.client._settings import Settings
from cadenza.client._token import Token, authorization
from cadenza.v1 import completion_pb2 as pb

RequestT = TypeVar("RequestT")


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedCall(Generic[RequestT]):
    """A request and the way it is to be sent."""

    request: RequestT
    target: str
    timeout: float | None
    """Seconds for all tries together; None waits without end."""
    max_retries: int
    request_id: str
    client_id: str | None
    token: Token | None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The call's headers, with the token as it is now. Raises Unauthenticated where it cannot be had."""
        headers = [("x-request-id", self.request_id)]
        if self.client_id:
            headers.append(("cadenza-client-id", self.client_id))
        if self.token:
            headers.append(("authorization", authorization(self.token)))
        return tuple(headers)


@dataclasses.dataclass(frozen=True, slots=True)
class Requests:
    """Builds the calls of one client. Every method raises InvalidOption."""

    target: str
    token: Token | None
    defaults: Mapping[str, Any]
    """Options of calls that give none; `timeout` and `max_retries` are always there."""

    @classmethod
    def by(cls, settings: Settings) -> Self:
        """Those of a client with these settings."""
        return cls(settings.target, settings.token, settings.defaults)

    def with_options(self, options: CompletionOptions) -> "Requests":
        """The same with other defaults."""
        return dataclasses.replace(self, defaults=self._merged(checked_completion_options(options)))

    @property
    def timeout(self) -> float:
        """Seconds for calls that say nothing else."""
        return float(self.defaults["timeout"])

    def create(
        self, prompt: pb.Prompt, options: CompletionOptions
    ) -> PreparedCall[pb.CreateCompletionRequest]:
        """A completion in one answer."""
        merged = self._merged(checked_completion_options(options))
        request = pb.CreateCompletionRequest(
            model=merged.get("model", ""), prompt=prompt, parameters=_parameters(merged)
        )
        return self._prepared(request, merged)

    def stream(
        self, prompt: pb.Prompt, options: CompletionOptions
    ) -> PreparedCall[pb.StreamCompletionRequest]:
        """A completion as a stream."""
        merged = self._merged(checked_completion_options(options))
        request = pb.StreamCompletionRequest(
            model=merged.get("model", ""), prompt=prompt, parameters=_parameters(merged)
        )
        return self._prepared(request, merged)

    def count_tokens(
        self, prompt: pb.Prompt, model: str | None, options: CallOptions
    ) -> PreparedCall[pb.CountTokensRequest]:
        """The tokens of a prompt."""
        return self.of(pb.CountTokensRequest(model=self._model(model), prompt=prompt), options)

    def model_named(self, name: str | None, options: CallOptions) -> PreparedCall[pb.GetModelRequest]:
        """The description of one model."""
        return self.of(pb.GetModelRequest(model=self._model(name)), options)

    def of(self, request: RequestT, options: CallOptions) -> PreparedCall[RequestT]:
        """Any request without completion parameters."""
        return self._prepared(request, self._merged(checked_call_options(options)))

    def _model(self, name: str | None) -> str:
        return str(self.defaults.get("model") or "") if name is None else name

    def _merged(self, checked: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.defaults, **checked}

    def _prepared(self, request: RequestT, merged: dict[str, Any]) -> PreparedCall[RequestT]:
        timeout = merged["timeout"]
        return PreparedCall(
            request=request,
            target=self.target,
            timeout=None if math.isinf(timeout) else timeout,
            max_retries=merged["max_retries"],
            request_id=merged.get("request_id") or uuid.uuid4().hex,
            client_id=merged.get("client_id"),
            token=self.token,
        )


_NOT_PARAMETERS = frozenset(CallOptions.__annotations__) | {"model"}


def _parameters(merged: Mapping[str, Any]) -> pb.CompletionParameters:
    """Only what was given is set, so that the server can tell it from its defaults."""
    given = {name: value for name, value in merged.items() if name not in _NOT_PARAMETERS}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    return pb.CompletionParameters(**given)
