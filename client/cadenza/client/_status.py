"""From a gRPC status to the SDK's exception: both clients raise through `error_from_rpc`.

The server sends google.rpc.Status in trailing metadata; its details become attributes of the exception.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from cadenza.client._requests import PreparedCall
from cadenza.client.errors import (
    CadenzaError,
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QueueFull,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

_STATUS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "x-request-id"

_BY_REASON: dict[str, type[CadenzaError]] = {"QUEUE_FULL": QueueFull}
_BY_CODE: dict[grpc.StatusCode, type[CadenzaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}

_OF_TLS = re.compile("handshake failed|verification check failed", re.IGNORECASE)
"""How gRPC words what is UNAVAILABLE for TLS; it has no status of its own."""

_Metadata = Iterable[tuple[str, str | bytes]]


class _FailedCall(Protocol):
    """What sync and async RPC errors have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def initial_metadata(self) -> _Metadata | None: ...
    def trailing_metadata(self) -> _Metadata | None: ...


@dataclasses.dataclass(slots=True)
class _Details:
    """The parts of google.rpc.Status.details that the SDK reads."""

    reason: str = ""
    request_id: str = ""
    retry_after: float | None = None
    field_violations: tuple[FieldViolation, ...] = ()


def error_from_rpc(error: grpc.RpcError, call: PreparedCall[Any]) -> CadenzaError:
    """The exception for a call that ended in `error`."""
    failed = cast("_FailedCall", error)
    code = failed.code()
    metadata = [*(failed.initial_metadata() or ()), *(failed.trailing_metadata() or ())]
    details = _details(metadata, code)
    cls = _BY_REASON.get(details.reason) or _BY_CODE.get(code, CadenzaError)
    message = failed.details() or code.name
    reason = details.reason
    if not details.reason and code is grpc.StatusCode.UNAVAILABLE:
        cls, reason = ConnectionFailed, "TLS_FAILED" if _OF_TLS.search(message) else "CONNECTION_FAILED"
        message = f"no answer from {call.target}: {message}"
    if not details.reason and code is grpc.StatusCode.DEADLINE_EXCEEDED and call.timeout is not None:
        message = f"no complete answer from {call.target} within {call.timeout:g} s"
    return cls(
        message,
        code=code,
        reason=reason,
        request_id=details.request_id or _request_id(metadata) or call.request_id,
        retry_after=details.retry_after,
        field_violations=details.field_violations,
    )


def cancelled_here(call: PreparedCall[Any]) -> Cancelled:
    """The exception for reading on after the call was cancelled on this side."""
    return Cancelled(
        "the call was cancelled by this client",
        code=grpc.StatusCode.CANCELLED,
        request_id=call.request_id,
    )


def _request_id(metadata: _Metadata) -> str | None:
    return next((str(value) for key, value in metadata if key == _REQUEST_ID_KEY), None)


def _details(metadata: _Metadata, code: grpc.StatusCode) -> _Details:
    """Reads google.rpc.Status; what does not parse or is of an unknown type is passed over.

    So is all of a status with another code than the call ended with: a call may be cancelled on this side
    just as the server's answer comes.
    """
    details = _Details()
    encoded = next((value for key, value in metadata if key == _STATUS_KEY), b"")
    try:
        status = status_pb2.Status.FromString(encoded)
        if status.code != code.value[0]:
            return details
        for detail in status.details:
            _read_detail(detail, details)
    except DecodeError:
        pass  # the code and the message, which arrived whole, make the exception
    return details


def _read_detail(detail: Any, details: _Details) -> None:
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    retry, bad_request = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    if detail.Unpack(info):
        details.reason = info.reason
    elif detail.Unpack(request):
        details.request_id = request.request_id
    elif detail.Unpack(retry):
        details.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9
    elif detail.Unpack(bad_request):
        details.field_violations = tuple(
            FieldViolation(violation.field, violation.description)
            for violation in bad_request.field_violations
        )
