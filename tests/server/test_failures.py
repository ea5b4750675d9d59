"""What fails fails alone: a step, a request's logits; and a step that does not end is seen."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.server.live import (
    HandClock,
    Live,
    answer,
    create,
    health_stub,
    live_server,
    read_error,
    rest,
    stream,
)
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.runner.base import NOT_FINITE

Status = health_pb2.HealthCheckResponse


async def test_a_failing_step_fails_its_requests_and_the_next_is_served(live: Live) -> None:
    live.runner.hold()
    calls = [
        live.stub.StreamCompletion(stream(prompt, max_tokens=50), metadata=(("x-request-id", prompt),))
        for prompt in "ak"
    ]
    await live.until("cadenza_num_requests_waiting", 2)
    live.runner.allow(2)
    for call in calls:
        await call.read()
    await live.begun(3)
    waiting = asyncio.ensure_future(live.text("q"))
    await live.until("cadenza_num_requests_waiting", 1)
    live.runner.fail(1)
    live.runner.allow()
    for call, name in zip(calls, "ak", strict=True):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await rest(call)
        error = read_error(raised.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "ENGINE_FAILED")
        assert error.info.metadata["request_id"] == name
        assert "stopping" not in error.message
        assert "scripted" not in error.message
    assert await waiting == "rstuv"
    assert (await live.get("/readyz"))[0] == 200
    assert await live.metric('cadenza_requests_failed_total{cause="step_failed",model="tiny"}') == 2
    assert await live.metric("cadenza_engine_step_failures_total") == 1
    assert await live.metric("cadenza_engine_failures_total") == 0
    assert await live.metric("cadenza_kv_cache_usage_ratio") == 0


async def test_logits_that_are_not_finite_fail_their_own_request_alone(artifact: Path) -> None:
    runner = ScriptedRunner({ord("m"): NOT_FINITE})
    async with live_server(artifact, runner) as live:
        runner.hold()
        calls = [live.stub.CreateCompletion(create(prompt)) for prompt in "ak"]
        waiting = [asyncio.ensure_future(answer(call)) for call in calls]
        await live.until("cadenza_num_requests_waiting", 2)
        runner.allow()
        assert await asyncio.gather(*waiting) == ["bcdef", "LOGITS_NOT_FINITE"]
        assert calls[1].code is not None
        assert await calls[1].code() == grpc.StatusCode.INTERNAL
        assert await live.metric('cadenza_requests_failed_total{cause="logits_not_finite",model="tiny"}') == 1
        await live.until("cadenza_kv_cache_usage_ratio", 0)
        await live.still_serves()


async def test_a_step_that_does_not_end_turns_health_until_it_ends(artifact: Path) -> None:
    clock, runner = HandClock(), ScriptedRunner()
    async with live_server(artifact, runner, clock, watchdog_seconds=0.05) as live:
        changes = health_stub(live.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await changes.read()).status == Status.SERVING
        runner.hold()
        call = asyncio.ensure_future(live.text("a"))
        await live.begun(1)
        assert await live.metric("cadenza_engine_stalled") == 0
        clock.now += 0.06
        assert (await changes.read()).status == Status.NOT_SERVING
        assert (await live.get("/readyz"))[0] == 503
        assert (await live.get("/healthz"))[0] == 200
        assert await live.metric("cadenza_engine_stalled") == 1
        runner.allow()
        assert await call == "bcdef"
        assert (await changes.read()).status == Status.SERVING
        assert (await live.get("/readyz"))[0] == 200
        assert await live.metric("cadenza_engine_stalled") == 0
        changes.cancel()


async def test_a_watchdog_of_zero_seconds_never_looks(artifact: Path) -> None:
    async with live_server(artifact, ScriptedRunner(), watchdog_seconds=0) as live:
        await live.still_serves()
        assert (await live.get("/readyz"))[0] == 200
