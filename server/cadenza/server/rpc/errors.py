"""The server's errors as gRPC statuses with google.rpc details."""

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from cadenza.server.errors import InvalidRequestError, RequestError
from cadenza.server.rpc.call import REQUEST_ID_KEY

ERROR_DOMAIN = "cadenza"
_DETAILS_KEY = "grpc-status-details-bin"


def status_code(error: RequestError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return grpc.StatusCode[error.code]


def trailing_metadata(error: RequestError, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """The request id, and the error's google.rpc.Status as gRPC carries it.

    Its details are ErrorInfo, RequestInfo, BadRequest and RetryInfo.
    """
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message, reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    code: int = status_code(error).value[0]
    status = status_pb2.Status(code=code, message=error.message, details=map(_pack, details))
    return (REQUEST_ID_KEY, request_id), (_DETAILS_KEY, status.SerializeToString())


def _pack(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
