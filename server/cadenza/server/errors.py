"""Every error the server raises on purpose, each knowing the status and the reason it becomes on the wire.

ServerError
├── StartupError                  the process cannot start (exit code 1), or a version cannot be loaded
│   ├── ArtifactError             a model's files are missing, corrupted or of an unknown kind
│   ├── CredentialError           certificates or tokens cannot be read from their files
│   └── MemoryShortError          a model does not fit beside what is loaded
└── RequestError                  one call is refused or ends early; the next is served as if nothing had been
    ├── InvalidRequestError            INVALID_ARGUMENT, any of the reasons of bad input
    ├── UnauthenticatedError           UNAUTHENTICATED
    ├── MessageTooLargeError           RESOURCE_EXHAUSTED
    ├── MethodNotFoundError            UNIMPLEMENTED
    ├── ModelNotFoundError             NOT_FOUND
    ├── VersionNotFoundError           NOT_FOUND
    ├── QueueFullError                 RESOURCE_EXHAUSTED
    ├── DrainingError                  UNAVAILABLE
    ├── ModelLoadingError              UNAVAILABLE
    ├── DeadlineExceededError          DEADLINE_EXCEEDED
    ├── DeadlineUnreachableError       DEADLINE_EXCEEDED
    ├── EngineFailedError              INTERNAL
    ├── StepFailedError                INTERNAL
    ├── LogitsNotFiniteError           INTERNAL
    └── UnexpectedError                INTERNAL

`docs/errors.md` is the table for users.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import ClassVar

_LONGEST_QUOTE = 80


class Reason(enum.StrEnum):
    """What went wrong, for programs; stable across versions."""

    FIELD_OUT_OF_RANGE = "FIELD_OUT_OF_RANGE"
    EMPTY_PROMPT = "EMPTY_PROMPT"
    MISSING_FIELD = "MISSING_FIELD"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    UNSUPPORTED_FIELD = "UNSUPPORTED_FIELD"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    INVALID_TOKEN_ID = "INVALID_TOKEN_ID"  # noqa: S105
    TOO_MANY_STOPS = "TOO_MANY_STOPS"
    INVALID_ROLE = "INVALID_ROLE"
    NO_CHAT_TEMPLATE = "NO_CHAT_TEMPLATE"
    CHAT_TEMPLATE_FAILED = "CHAT_TEMPLATE_FAILED"
    INVALID_CLIENT_ID = "INVALID_CLIENT_ID"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105
    METHOD_NOT_FOUND = "METHOD_NOT_FOUND"
    INVALID_TENSOR = "INVALID_TENSOR"
    SIGNATURE_NOT_FOUND = "SIGNATURE_NOT_FOUND"
    NOT_SERVED = "NOT_SERVED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND"
    QUEUE_FULL = "QUEUE_FULL"
    SERVER_DRAINING = "SERVER_DRAINING"
    MODEL_LOADING = "MODEL_LOADING"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"
    ENGINE_FAILED = "ENGINE_FAILED"
    LOGITS_NOT_FINITE = "LOGITS_NOT_FINITE"
    INTERNAL = "INTERNAL"


class ServerError(Exception):
    """The root of the server's own errors."""


class StartupError(ServerError):
    """The server cannot start; the message is all that an operator needs."""


class ArtifactError(StartupError):
    """An artifact on disk cannot be served; the message names the file."""


class CredentialError(StartupError):
    """A file of certificates or tokens cannot be used; the message names it and never quotes a secret."""


class MemoryShortError(StartupError):
    """A model does not fit into the memory that is free."""

    def __init__(self, model: str, required: int, free: int) -> None:
        """`required` and `free` are bytes."""
        super().__init__(
            f"{model} needs {_gib(required)} of memory and {_gib(free)} are free; lower --kv-cache-gib, give "
            "the server more memory, or serve fewer versions"
        )


class RequestError(ServerError):
    """A call that is answered with an error. `code` is the gRPC status's name."""

    code: ClassVar[str]

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        """`retry_after` is in seconds; None where trying again the same way is of no use."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class InvalidRequestError(RequestError):
    """The caller's input is wrong; `field` is its path in the request, empty where there is none."""

    code = "INVALID_ARGUMENT"

    def __init__(
        self, reason: Reason, field: str, message: str, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason, message, metadata={"field": field, **(metadata or {})})
        self.field = field


class UnauthenticatedError(RequestError):
    """The call shows no bearer token, or one that is not of this server."""

    code = "UNAUTHENTICATED"


class MessageTooLargeError(RequestError):
    """The request's message is larger than the server is set to take."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, size: int, limit: int) -> None:
        """Both in bytes."""
        super().__init__(
            Reason.MESSAGE_TOO_LARGE,
            f"the request is {size} bytes long and this server takes {limit}; send less at once",
            metadata={"size": str(size), "limit": str(limit)},
        )


class MethodNotFoundError(RequestError):
    """The server has no such method."""

    code = "UNIMPLEMENTED"

    def __init__(self) -> None:
        super().__init__(
            Reason.METHOD_NOT_FOUND,
            "this server has no such method; reflection lists those that it has",
        )


class ModelNotFoundError(RequestError):
    """No model of that name is served here."""

    code = "NOT_FOUND"

    def __init__(self, name: str, names: Sequence[str]) -> None:
        listed = ", ".join(names)
        super().__init__(
            Reason.MODEL_NOT_FOUND,
            f"model {quote(name)} is not served here; the models are: {listed or 'none yet'}",
            metadata={"model": name[:_LONGEST_QUOTE], "models": listed},
        )


class VersionNotFoundError(RequestError):
    """The model is served, but not in that version or under that label."""

    code = "NOT_FOUND"

    def __init__(self, name: str, which: str, versions: Sequence[int], labels: Sequence[str]) -> None:
        """`which` is the number or the label that was asked for."""
        listed, labelled = ", ".join(map(str, versions)), ", ".join(labels)
        super().__init__(
            Reason.VERSION_NOT_FOUND,
            f"model {quote(name)} is not served here as {quote(which)}; its versions are: "
            f"{listed or 'none yet'}; its labels: {labelled or 'none'}",
            metadata={
                "model": name[:_LONGEST_QUOTE],
                "version": which[:_LONGEST_QUOTE],
                "versions": listed,
                "labels": labelled,
            },
        )


class QueueFullError(RequestError):
    """More requests, prompt tokens or bytes wait than the server is set to hold."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(Reason.QUEUE_FULL, message, retry_after=retry_after)


class DrainingError(RequestError):
    """The server is shutting down."""

    code = "UNAVAILABLE"

    def __init__(self, message: str = "the server is shutting down; send the request to another one") -> None:
        super().__init__(Reason.SERVER_DRAINING, message, retry_after=1.0)


class ModelLoadingError(RequestError):
    """The model is still being loaded."""

    code = "UNAVAILABLE"

    def __init__(self, name: str) -> None:
        super().__init__(
            Reason.MODEL_LOADING,
            f"model {quote(name)} is still loading; try again, or wait for health SERVING",
            metadata={"model": name[:_LONGEST_QUOTE]},
            retry_after=1.0,
        )


class DeadlineExceededError(RequestError):
    """The call's own deadline has passed."""

    code = "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__(
            Reason.DEADLINE_EXCEEDED,
            "the call's deadline passed before its completion ended; allow more time or ask for fewer tokens",
        )


class DeadlineUnreachableError(RequestError):
    """The call's deadline would pass before its completion could end; nothing was computed."""

    code = "DEADLINE_EXCEEDED"

    def __init__(self, estimated: float, left: float) -> None:
        """Both in seconds: what the completion takes at least, and what the deadline leaves."""
        super().__init__(
            Reason.DEADLINE_UNREACHABLE,
            f"at present this takes {estimated:.3f} s or more, and the deadline leaves {left:.3f} s; "
            "allow more time, ask for fewer tokens or send it to another server",
            metadata={"estimated_seconds": f"{estimated:.3f}", "seconds_left": f"{left:.3f}"},
        )


class EngineFailedError(RequestError):
    """The engine broke; the server stops. The trace is in the server's log, under the request id."""

    code = "INTERNAL"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            Reason.ENGINE_FAILED,
            f"the inference engine failed and the server is stopping; see its log for request {request_id}",
            metadata={"request_id": request_id},
        )


class StepFailedError(RequestError):
    """A step that the request was part of failed; the engine goes on with others."""

    code = "INTERNAL"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            Reason.ENGINE_FAILED,
            "the inference engine failed while it computed this request; "
            f"send it again, and see the server's log for request {request_id}",
            metadata={"request_id": request_id},
        )


class LogitsNotFiniteError(RequestError):
    """The model gave NaN or infinity for this request; others are not touched."""

    code = "INTERNAL"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            Reason.LOGITS_NOT_FINITE,
            "the model's values for this request are not finite numbers, so no token can be chosen; "
            f"change the prompt or the penalties, and see the server's log for request {request_id}",
            metadata={"request_id": request_id},
        )


class UnexpectedError(RequestError):
    """A bug of ours; the trace is in the log."""

    code = "INTERNAL"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            Reason.INTERNAL,
            f"the server failed to answer; report this with the server's log of request {request_id}",
            metadata={"request_id": request_id},
        )


def quote(value: object) -> str:
    """The value as a caller sees it in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
