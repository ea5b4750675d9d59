"""The limits of messages, metadata and connections, as the client sees them refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.security.relay import Relay
from tests.security.secured import status, text
from tests.server.live import Live, create, live_server, rest, stream
from tests.server.scripted_runner import ScriptedRunner

from cadenza.v1 import completion_pb2_grpc as pb_grpc

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@contextlib.asynccontextmanager
async def _connect(port: int, **options: int) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own; options are gRPC's channel arguments."""
    chosen = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{k}", v) for k, v in options.items())]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=chosen) as channel:
        yield channel


async def test_a_message_over_the_limit_is_refused_with_both_sizes(artifact: Any, runner: Any) -> None:
    async with live_server(artifact, runner, max_message_bytes=2048) as live:
        error = await _send(live, 3000)
        assert error.code() == RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await live.stub.StreamCompletion(stream("a" * 3000)).read()
        for refused in (error, raised.value):
            assert "this server takes 2048; send less at once" in (refused.details() or "")
        assert await live.metric('cadenza_requests_rejected_total{reason="MESSAGE_TOO_LARGE"}') == 2
        await live.still_serves()


async def test_a_message_of_more_than_twice_the_limit_is_not_even_received(
    artifact: Any, runner: Any
) -> None:
    async with live_server(artifact, runner, max_message_bytes=2048) as live:
        error = await _send(live, 5000)
        assert error.code() == RESOURCE_EXHAUSTED
        assert "Received message larger than max" in (error.details() or "")
        await live.still_serves()


async def test_what_a_message_unpacks_to_counts(artifact: Any, runner: Any) -> None:
    async with live_server(artifact, runner, max_message_bytes=2048) as live:
        for size in (3000, 1_000_000):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await live.stub.CreateCompletion(create("a" * size), compression=grpc.Compression.Gzip)
            assert raised.value.code() == RESOURCE_EXHAUSTED
        await live.still_serves()


async def test_metadata_over_the_limit_are_refused(artifact: Any, runner: Any) -> None:
    async with live_server(artifact, runner, max_metadata_bytes=4096) as live:
        assert await status(live.channel, (("x-note", "n" * 3000),)) == grpc.StatusCode.OK
        for size in (4000, 100_000):
            assert await status(live.channel, (("x-note", "n" * size),)) == RESOURCE_EXHAUSTED
        await live.still_serves()


async def test_calls_beyond_those_of_a_connection_wait_in_the_client(artifact: Any, runner: Any) -> None:
    async with (
        live_server(artifact, runner, max_connection_streams=2) as live,
        _connect(live.ports.grpc) as full,
    ):
        live.runner.hold()
        stub: Any = pb_grpc.CompletionServiceStub(full)
        running = [stub.StreamCompletion(stream("a", max_tokens=3)) for _ in range(2)]
        await live.until('grpc_server_started_total{grpc_method="StreamCompletion"', 2)
        waiting = asyncio.ensure_future(stub.CreateCompletion(create("a", max_tokens=3)))
        async with _connect(live.ports.grpc) as another:
            held = asyncio.ensure_future(text(another))
            await live.until('grpc_server_started_total{grpc_method="CreateCompletion"', 1)
            live.runner.allow()
            assert await held == "bcd"
        for call in running:
            await rest(call)
        assert (await waiting).choices[0].text == "bcd"


async def test_an_old_connection_ends_when_its_streams_have(artifact: Any, runner: Any) -> None:
    async with live_server(artifact, runner, max_connection_seconds=0.3) as live:
        call = await _begin(live)
        async with asyncio.timeout(10):
            await live.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        live.runner.allow()
        assert "".join(part.choices[0].text for part in await rest(call)) == "cd"
        await live.still_serves()


async def test_a_grace_ends_the_streams_of_an_old_connection(artifact: Any, runner: Any) -> None:
    ages: dict[str, Any] = {"max_connection_seconds": 0.3, "max_connection_grace_seconds": 0.2}
    async with live_server(artifact, runner, **ages) as live:
        call = await _begin(live)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await rest(call)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        live.runner.allow()
        await live.until('cadenza_requests_cancelled_total{cause="client"', 1)
        await live.still_serves()


async def test_a_client_that_pings_too_often_is_disconnected(artifact: Any, runner: Any) -> None:
    pings = {"keepalive_time_ms": 20, "keepalive_permit_without_calls": 1, "http2.max_pings_without_data": 0}
    async with live_server(artifact, runner) as live, _connect(live.ports.grpc, **pings) as channel:
        live.runner.hold()
        stub: Any = pb_grpc.CompletionServiceStub(channel)
        call = stub.StreamCompletion(stream("a", max_tokens=3))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "too many pings" in (raised.value.details() or "").lower()
        live.runner.allow()
        await live.still_serves()


async def test_a_client_that_has_vanished_is_found_and_its_request_cancelled(
    artifact: Any, runner: ScriptedRunner
) -> None:
    async with (
        live_server(artifact, runner, keepalive_seconds=1.0) as live,
        Relay(live.ports.grpc) as relay,
        _connect(relay.port) as channel,
    ):
        live.runner.hold()
        stub: Any = pb_grpc.CompletionServiceStub(channel)
        call = stub.StreamCompletion(stream("a", max_tokens=3))
        live.runner.allow(1)
        await call.read()
        relay.swallow()
        await live.until('grpc_server_handled_total{grpc_code="CANCELLED"', 1)
        live.runner.allow()
        await live.until("cadenza_num_requests_running", 0)


async def _begin(live: Live) -> Any:
    """A stream of "bcd" that has given its first token and is held."""
    live.runner.hold()
    call = live.stub.StreamCompletion(stream("a", max_tokens=3))
    live.runner.allow(1)
    await call.read()
    return call


async def _send(live: Live, size: int) -> grpc.aio.AioRpcError:
    """The error that a prompt of that many bytes gets."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await live.stub.CreateCompletion(create("a" * size))
    return raised.value
