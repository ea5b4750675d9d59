"""Requests that do not run to their end: cancelled, out of time, refused; and what they leave behind."""

import asyncio
from pathlib import Path

import grpc
import pytest
from tests.server.live import Live, create, live_server, read_error, stream
from tests.server.scripted_runner import ScriptedRunner


async def test_cancelled_stream_takes_part_in_no_step_after_the_one_that_runs(live: Live) -> None:
    live.runner.hold()
    leaving = live.stub.StreamCompletion(stream("a", max_tokens=100))
    live.runner.allow(1)
    await leaving.read()
    await live.begun(2)
    staying = asyncio.ensure_future(live.text("k", max_tokens=6))
    await live.until("cadenza_num_requests_waiting", 1)
    leaving.cancel()
    await live.until('cadenza_requests_cancelled_total{cause="client",model="tiny",stage="decode"}', 1)
    live.runner.allow()
    assert await staying == "lmnopq"
    assert live.runner.batch_sizes == [1] * (2 + 6)
    assert await live.metric("cadenza_kv_cache_usage_ratio") == 0


async def test_cancelled_while_waiting_never_runs(live: Live) -> None:
    live.runner.hold()
    running = [asyncio.ensure_future(live.text("a")) for _ in range(4)]
    await live.begun(1)
    await live.until("cadenza_num_requests_waiting", 4)
    late = [live.stub.CreateCompletion(create("k")) for _ in range(2)]
    await live.until("cadenza_num_requests_waiting", 6)
    for call in late:
        call.cancel()
    await live.until("cadenza_requests_cancelled_total", 2)
    live.runner.allow()
    assert await asyncio.gather(*running) == ["bcdef"] * 4
    await live.still_serves()
    assert await live.metric("cadenza_requests_finished_total") == 5


async def test_deadline_ends_the_request_on_the_server(live: Live) -> None:
    live.runner.hold()
    call = live.stub.CreateCompletion(create("a", max_tokens=100), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await live.until("cadenza_requests_cancelled_total", 1)
    live.runner.allow()
    await live.still_serves()
    assert await live.metric("cadenza_kv_cache_usage_ratio") == 0


async def test_full_queue_refuses_at_once_and_says_when_to_try_again(artifact: Path) -> None:
    runner = ScriptedRunner()
    async with live_server(artifact, runner, max_queue_requests=2) as live:
        runner.hold()
        waiting = [asyncio.ensure_future(live.text("k")) for _ in range(2)]
        await live.until("cadenza_num_requests_waiting", 2)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await live.text("q")
        error = read_error(raised.value)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert error.retry_seconds is not None
        assert 0.1 <= error.retry_seconds <= 30
        runner.allow()
        assert await asyncio.gather(*waiting) == ["lmnop"] * 2
        assert await live.metric('cadenza_requests_rejected_total{reason="QUEUE_FULL"}') == 1
        await live.still_serves()


async def test_bytes_that_wait_are_bounded_too(artifact: Path) -> None:
    runner = ScriptedRunner()
    size = create("a" * 60).ByteSize()
    async with live_server(artifact, runner, max_queue_bytes=size + 10) as live:
        runner.hold()
        lone = asyncio.ensure_future(live.text("a" * 60))
        await live.begun(1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await live.text("q" * 10)
        error = read_error(raised.value)
        assert error.reason == "QUEUE_FULL"
        assert "bytes" in error.message
        runner.allow()
        assert await lone == "bcdef"
        await live.still_serves()


async def test_prompt_tokens_that_wait_are_bounded_too(artifact: Path) -> None:
    runner = ScriptedRunner()
    async with live_server(artifact, runner, max_queue_prompt_tokens=50) as live:
        runner.hold()
        lone = asyncio.ensure_future(live.text("a" * 60))
        await live.begun(1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await live.text("q")
        assert read_error(raised.value).reason == "QUEUE_FULL"
        runner.allow()
        assert await lone == "bcdef"
        await live.still_serves()
