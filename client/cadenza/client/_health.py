"""The health check of grpc.health.v1 without its generated stubs, which the base install does not have.

The two messages are known by their wire form alone: HealthCheckRequest is one string in field 1, as is
google.protobuf.StringValue, and HealthCheckResponse one enum in field 1, whose varint
google.protobuf.Int32Value reads. So protobuf's own wrappers encode and decode them.
"""

import time

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cadenza.client._requests import PreparedCall
from cadenza.client._results import ServingStatus
from cadenza.client._status import error_from_rpc
from cadenza.client.errors import DeadlineExceeded, Unavailable

CHECK_METHOD = "/grpc.health.v1.Health/Check"
POLL_SECONDS = 0.1
"""Between two checks of `wait_ready`."""
_CHECK_SECONDS = 2.0
"""Most for one check: a server that took it and hangs is asked again."""

_STATUSES = (
    ServingStatus.UNKNOWN,
    ServingStatus.SERVING,
    ServingStatus.NOT_SERVING,
    ServingStatus.SERVICE_UNKNOWN,
)


def status_from(response: Int32Value) -> ServingStatus:
    """The answer of the health service; a value of a later version counts as UNKNOWN."""
    return _STATUSES[response.value] if 0 <= response.value < len(_STATUSES) else ServingStatus.UNKNOWN


class ReadyWait:
    """The state of one `wait_ready`: the time left and what was seen. The clients bring call and sleep."""

    def __init__(self, call: PreparedCall[StringValue], timeout: float) -> None:
        self._call = call
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._seen: ServingStatus | None = None

    def check_timeout(self) -> float:
        """Seconds for the next check. Raises DeadlineExceeded when the wait is over."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            state = f"its last answer was {self._seen}" if self._seen else "it never answered"
            raise DeadlineExceeded(
                f"{self._call.target} was not SERVING within {self._timeout:g} s: {state}",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                reason="NOT_READY",
            )
        return min(left, _CHECK_SECONDS)

    def is_ready(self, response: Int32Value) -> bool:
        """Whether this answer ends the wait."""
        self._seen = status_from(response)
        return self._seen is ServingStatus.SERVING

    def failed(self, error: grpc.RpcError) -> None:
        """Takes the failure of one check: silence is waited out. Raises CadenzaError for any other."""
        mapped = error_from_rpc(error, self._call)
        if not isinstance(mapped, Unavailable | DeadlineExceeded):
            raise mapped from error
