"""Statuses of the server as the SDK's exceptions, and what they carry."""

import socket

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import status_pb2
from tests.client.scripted import (
    REQUEST_ID,
    ScriptedServer,
    error_info,
    out_of_range,
    queue_full,
    rich_status,
)

from cadenza.client import (
    AsyncClient,
    CadenzaError,
    Cancelled,
    Client,
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

CODES = grpc.StatusCode


async def failure_of(server: ScriptedServer, failure: status_pb2.Status) -> CadenzaError:
    """The exception of a failing call, which must be the same for both clients and both kinds of call."""
    server.failure = failure
    with Client(server.target, max_retries=0) as client:
        with pytest.raises(CadenzaError) as sync_call:
            client.complete("x")
        with pytest.raises(CadenzaError) as sync_stream:
            client.stream("x").collect()
    async with AsyncClient(server.target, max_retries=0) as async_client:
        with pytest.raises(CadenzaError) as async_call:
            await async_client.complete("x")
        with pytest.raises(CadenzaError) as async_stream:
            await async_client.stream("x").collect()
    errors = [caught.value for caught in (sync_call, sync_stream, async_call, async_stream)]
    assert len({(type(error), str(error)) for error in errors}) == 1
    assert all(vars(error) == vars(errors[0]) for error in errors)
    return errors[0]


async def test_a_full_queue_says_when_to_come_back(server: ScriptedServer) -> None:
    error = await failure_of(server, queue_full(1.5))
    assert type(error) is QueueFull
    assert isinstance(error, ResourceExhausted)
    assert (error.code, error.reason) == (CODES.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert error.message == "64 requests wait; at most 64 may"
    assert error.retry_after == 1.5
    assert error.request_id == REQUEST_ID
    assert str(error) == "QUEUE_FULL: 64 requests wait; at most 64 may (request req-1)"


async def test_a_refused_field_is_named(server: ScriptedServer) -> None:
    error = await failure_of(server, out_of_range())
    assert type(error) is InvalidRequest
    assert error.reason == "FIELD_OUT_OF_RANGE"
    assert error.field_violations == (
        FieldViolation("parameters.temperature", "must be within 0 and 100; given: -1"),
    )
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (CODES.INVALID_ARGUMENT, InvalidRequest),
        (CODES.OUT_OF_RANGE, InvalidRequest),
        (CODES.NOT_FOUND, NotFound),
        (CODES.RESOURCE_EXHAUSTED, ResourceExhausted),
        (CODES.DEADLINE_EXCEEDED, DeadlineExceeded),
        (CODES.CANCELLED, Cancelled),
        (CODES.UNAVAILABLE, Unavailable),
        (CODES.UNIMPLEMENTED, Unimplemented),
        (CODES.UNAUTHENTICATED, Unauthenticated),
        (CODES.PERMISSION_DENIED, PermissionDenied),
        (CODES.INTERNAL, InternalError),
        (CODES.UNKNOWN, InternalError),
        (CODES.DATA_LOSS, InternalError),
        (CODES.ABORTED, CadenzaError),
    ],
)
async def test_each_status_has_its_class(
    server: ScriptedServer, code: grpc.StatusCode, cls: type[CadenzaError]
) -> None:
    error = await failure_of(server, rich_status(code, "so it is", error_info("SOME_REASON")))
    assert type(error) is cls
    assert (error.code, error.reason, error.message) == (code, "SOME_REASON", "so it is")


async def test_without_details_the_reason_is_the_status(server: ScriptedServer) -> None:
    error = await failure_of(server, rich_status(CODES.NOT_FOUND, "no model of this name"))
    assert (type(error), error.reason, error.message) == (NotFound, "NOT_FOUND", "no model of this name")


async def test_details_of_an_unknown_type_are_passed_over(server: ScriptedServer) -> None:
    error = await failure_of(
        server, rich_status(CODES.NOT_FOUND, "none", StringValue(value="?"), error_info("X"))
    )
    assert (type(error), error.reason) == (NotFound, "X")


async def test_where_nothing_listens_the_connection_fails_and_the_target_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        target = f"localhost:{unused.getsockname()[1]}"
        with Client(target) as client, pytest.raises(ConnectionFailed, match=target) as caught:
            client.complete("x", request_id="mine")
        async with AsyncClient(target) as async_client:
            with pytest.raises(ConnectionFailed, match=target):
                await async_client.stream("x").collect()
    assert isinstance(caught.value, Unavailable)
    assert caught.value.reason == "CONNECTION_FAILED"
    assert caught.value.request_id == "mine"


async def test_a_unary_call_that_takes_longer_than_its_timeout_ends_in_deadline_exceeded(
    server: ScriptedServer, client: Client, async_client: AsyncClient
) -> None:
    server.hangs_after = 0
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s") as caught:
        client.complete("x", timeout=0.2)
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    with pytest.raises(DeadlineExceeded):
        await async_client.complete("x", timeout=0.2)
    assert server.cancelled.wait(10)
