"""The health check of grpc.health.v1 without its generated stubs, which the base install does not have.

The two messages are known by their wire form alone: HealthCheckRequest is one string in field 1, as is
google.protobuf.StringValue, and HealthCheckResponse one enum in field 1, whose varint
google.protobuf.Int32Value reads. So protobuf's own wrappers encode and decode them.
"""

import time
from typing import Any, Final

import grpc
from google.protobuf.wrappers_pb2 import Int32Value

from cadenza.client._requests import PreparedCall
from cadenza.client._results import ServingStatus
from cadenza.client._status import error_from_rpc
from cadenza.client.errors import DeadlineExceeded, Unavailable

POLL_SECONDS: Final = 0.1
"""Between two rounds of `wait_ready`."""
_LONGEST_CHECK: Final = 2.0
_SHORTEST_CHECK: Final = 0.02
"""Seconds."""

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
    """The state of one `wait_ready`: the time left and what was seen. The clients bring calls and sleep.

    In each round the balanced channel is asked first: it answers when the next call can be served. Where it
    does not, a plain check finds out why, for the message of DeadlineExceeded.
    """

    def __init__(self, call: PreparedCall[Any], timeout: float) -> None:
        self._call = call
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._seen = "it never answered"

    def next_round(self) -> dict[str, Any]:
        """Timeout and metadata of the round's first check. Raises DeadlineExceeded when the wait is over."""
        if time.monotonic() >= self._deadline:
            raise DeadlineExceeded(
                f"{self._call.target} was not SERVING within {self._timeout:g} s: {self._seen}",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
                reason="NOT_READY",
                request_id=self._call.request_id,
            )
        return self.next_check()

    def next_check(self) -> dict[str, Any]:
        """Timeout and metadata of a check: half of what is left, so that there is time to ask why."""
        left = self._deadline - time.monotonic()
        timeout = max(min(left / 2, _LONGEST_CHECK), _SHORTEST_CHECK)
        return {"timeout": timeout, "metadata": self._call.metadata()}

    def answered(self, response: Int32Value) -> None:
        """Takes the answer of a plain check."""
        self._seen = f"its last answer was {status_from(response)}"

    def failed(self, error: grpc.RpcError) -> None:
        """Takes the failure of a check: silence is waited out. Raises CadenzaError for any other."""
        mapped = error_from_rpc(error, self._call)
        if isinstance(mapped, Unavailable):
            self._seen = f"it never answered ({mapped.message})"
        elif not isinstance(mapped, DeadlineExceeded):
            raise mapped from error
