"""Everything the SDK raises, one tree; catch the root or the branch that you can do something about.

CadenzaError
├── InvalidRequest         INVALID_ARGUMENT, OUT_OF_RANGE: the server refuses what was asked
│   └── InvalidOption      the SDK refuses it already; nothing was sent
├── NotFound               NOT_FOUND: no such model
├── ResourceExhausted      RESOURCE_EXHAUSTED: a limit was reached
│   └── QueueFull          too many requests wait; try again after `retry_after` seconds
├── DeadlineExceeded       DEADLINE_EXCEEDED: no complete answer in time
├── Cancelled              CANCELLED: the call was ended, here or on the server
├── Unavailable            UNAVAILABLE: the server is loading or draining; try again
│   └── ConnectionFailed   no server was reached, TLS failed, or the connection broke
├── Unimplemented          UNIMPLEMENTED: this server does not know the method
├── Unauthenticated        UNAUTHENTICATED
├── PermissionDenied       PERMISSION_DENIED
├── Unusable               FAILED_PRECONDITION: this client cannot call any more; nothing was sent
└── InternalError          INTERNAL, UNKNOWN, DATA_LOSS: the server failed

A status beside these is raised as the root, `CadenzaError`.
"""
# ruff: noqa: N818 - names say what happened, as HTTP libraries do; the root alone ends in Error.

import dataclasses
from collections.abc import Sequence

import grpc


@dataclasses.dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of a request."""

    field: str
    """Path of the field: "parameters.temperature" or "messages[0].role"."""
    description: str


class CadenzaError(Exception):
    """A call that failed: the status and what the server said about it."""

    code: grpc.StatusCode
    """The gRPC status."""
    reason: str
    """A constant for programs: "QUEUE_FULL", or the status's name where the server gave none."""
    message: str
    """A sentence for people."""
    request_id: str | None
    """The id under which the server logged the call, where it is known."""
    retry_after: float | None
    """Seconds to wait before trying again, where the server said."""
    field_violations: tuple[FieldViolation, ...]
    """The fields that were refused."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        request_id: str | None = None,
        retry_after: float | None = None,
        field_violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason or code.name
        self.request_id = request_id
        self.retry_after = retry_after
        self.field_violations = tuple(field_violations)

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.reason}: {self.message}{request}"


class InvalidRequest(CadenzaError):
    """The request is wrong and will be refused again; `field_violations` name the fields."""


class InvalidOption(InvalidRequest, ValueError):
    """An argument has the wrong type or shape, or an unknown name; nothing was sent."""


class NotFound(CadenzaError):
    """The server has no such model; the message names those it has."""


class ResourceExhausted(CadenzaError):
    """A limit of the server or of the connection was reached."""


class QueueFull(ResourceExhausted):
    """Too many requests wait already; try again after `retry_after` seconds."""


class DeadlineExceeded(CadenzaError):
    """The call's timeout passed, or the server saw beforehand that it would."""


class Cancelled(CadenzaError):
    """The call was cancelled."""


class Unavailable(CadenzaError):
    """The server does not take requests now: it is loading a model or draining."""


class ConnectionFailed(Unavailable):
    """No server was reached at the target, or the connection broke before the answer was complete.

    `reason` is CONNECTION_FAILED, or TLS_FAILED where one side does not accept the other's certificate or
    only one of them uses TLS.
    """


class Unimplemented(CadenzaError):
    """The server does not know the method: another service, or an older Cadenza."""


class Unauthenticated(CadenzaError):
    """The call's credentials are missing or wrong."""


class PermissionDenied(CadenzaError):
    """The caller may not do this."""


class Unusable(CadenzaError):
    """The client was closed, or used before os.fork() where gRPC's fork support is off."""


class InternalError(CadenzaError):
    """The server failed; `request_id` finds the call in its log."""
