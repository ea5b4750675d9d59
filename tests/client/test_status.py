"""Which exception a failed call becomes, where what the server said and what happened here cross."""

from types import SimpleNamespace
from typing import Any, cast

import grpc
from grpc_status import rpc_status
from tests.client.scripted import queue_full

from cadenza.client import Cancelled
from cadenza.client._status import error_from_rpc


class CancelledAsTheRefusalCame(grpc.RpcError):
    """What gRPC raises where a call is cancelled between the server's trailers and their reading."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "Locally cancelled by application!"

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return rpc_status.to_status(queue_full(30)).trailing_metadata


def test_a_call_cancelled_just_as_it_was_refused_is_cancelled() -> None:
    call = cast("Any", SimpleNamespace(target="x", timeout=None, request_id="r"))
    found = error_from_rpc(CancelledAsTheRefusalCame(), call)
    assert isinstance(found, Cancelled)
    assert found.retry_after is None
