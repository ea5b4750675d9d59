"""How a server ends: drained, with requests cut short, or by a broken engine."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.server.live import (
    Live,
    answer,
    create,
    health_stub,
    live_server,
    read_error,
    rest,
    settings,
    stream,
)
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.app import Server
from cadenza.server.errors import StartupError
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_drain_finishes_what_runs_and_refuses_what_comes(live: Live) -> None:
    live.runner.hold()
    running = live.stub.StreamCompletion(stream("a", max_tokens=4))
    live.runner.allow(1)
    await running.read()
    stopping = asyncio.ensure_future(live.server.stop(drain_seconds=20))
    await _not_serving(live)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await live.text("k")
    error = read_error(raised.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    assert error.retry_seconds == 1
    assert (await live.get("/readyz"))[0] == 503
    assert (await live.get("/healthz"))[0] == 200
    live.runner.allow()
    messages = await rest(running)
    assert "".join(message.choices[0].text for message in messages) == "cde"
    assert messages[-1].choices[0].finish_reason == pb.FINISH_REASON_LENGTH
    assert await stopping
    assert live.runner.closed


async def test_drain_cancels_what_its_time_does_not_suffice_for(live: Live) -> None:
    live.runner.hold()
    running = live.stub.StreamCompletion(stream("a", max_tokens=100))
    live.runner.allow(1)
    await running.read()
    await live.begun(2)
    stopping = asyncio.ensure_future(live.server.stop(drain_seconds=0))
    await _not_serving(live)
    live.runner.allow(2)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rest(running)
    assert read_error(raised.value).reason == "SERVER_DRAINING"
    assert await stopping


async def test_drain_ends_health_watches_while_requests_still_run(live: Live) -> None:
    """Held open they would keep a proxy's callers on a server that goes."""
    watch = health_stub(live.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    live.runner.hold()
    running = live.stub.StreamCompletion(stream("a", max_tokens=2))
    await live.begun(1)
    stopping = asyncio.create_task(live.server.stop(drain_seconds=20))
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    anew = health_stub(live.channel).Watch(health_pb2.HealthCheckRequest(service="nosuch"))
    assert (await anew.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert await anew.read() is grpc.aio.EOF
    live.runner.allow()
    assert len(await rest(running)) > 0
    assert await stopping


async def test_broken_engine_ends_every_call_with_a_typed_error(live: Live) -> None:
    live.runner.hold()
    ids = (("x-request-id", "mine"),)
    streaming = live.stub.StreamCompletion(stream("a", max_tokens=50), metadata=ids)
    live.runner.allow(1)
    await streaming.read()
    unary = live.stub.CreateCompletion(create("k"), metadata=ids)
    waiting = asyncio.ensure_future(answer(unary))
    live.runner.fail()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rest(streaming)
    error = read_error(raised.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "ENGINE_FAILED")
    assert error.info.metadata["request_id"] == "mine"
    assert "scripted failure" not in error.message
    assert await waiting == "ENGINE_FAILED"
    await asyncio.wait_for(live.server.engine_failed.wait(), 10)
    assert (await live.get("/readyz"))[0] == 503
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await live.text("a")
    assert read_error(raised.value).reason == "ENGINE_FAILED"
    assert await live.metric("cadenza_engine_failures_total") == 1
    assert await live.server.stop(drain_seconds=5)


async def test_calls_before_the_model_is_loaded_are_told_so(artifact: Path) -> None:
    server = Server(settings(model=(f"tiny={artifact}",)), ScriptedLoader())
    ports = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        health = health_stub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await pb_grpc.CompletionServiceStub(channel).CreateCompletion(create("a"))
        error = read_error(raised.value)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
        assert error.retry_seconds == 1
    await server.stop(drain_seconds=0)


async def test_two_models_are_served_by_name_and_a_name_is_needed(artifact: Path) -> None:
    models = (f"one={artifact}", f"two={artifact}")
    server = Server(settings(model=models), ScriptedLoader())
    ports = await server.start()
    await server.load()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        stub = pb_grpc.CompletionServiceStub(channel)
        for name in ("one", "two"):
            request = pb.CreateCompletionRequest(model=name, prompt=pb.Prompt(text="a"))
            response = await stub.CreateCompletion(request)
            assert (response.model, response.choices[0].text) == (name, "bcdef")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.CreateCompletion(create("a"))
        error = read_error(raised.value)
        assert error.reason == "MISSING_FIELD"
        assert "one, two" in error.message
    assert await server.stop(drain_seconds=5)


@pytest.mark.parametrize("taken", ["port", "http_port"])
async def test_port_in_use_is_a_clear_error(live: Live, artifact: Path, taken: str) -> None:
    port = live.ports.grpc if taken == "port" else live.ports.http
    second = Server(settings(model=(f"tiny={artifact}",), **{taken: port}), ScriptedLoader())
    with pytest.raises(StartupError, match=str(port)):
        await second.start()
    await second.stop(drain_seconds=0)
    await live.still_serves()


async def test_every_address_is_listened_on_by_default(artifact: Path) -> None:
    async with live_server(artifact, ScriptedRunner(), host="::") as live:
        assert (await live.get("/readyz"))[0] == 200
        await live.still_serves()


async def _not_serving(live: Live) -> None:
    watch = health_stub(live.channel).Watch(health_pb2.HealthCheckRequest())
    async for change in watch:
        if change.status == NOT_SERVING:
            break
    watch.cancel()
