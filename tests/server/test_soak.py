"""Two thousand requests that end early, at random points, over real gRPC: nothing of them is left."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.server.live import Live, live_server, stream
from tests.server.scripted_runner import ScriptedRunner

REQUESTS = 1000
AT_ONCE = 10
ZERO = (
    "cadenza_num_requests_waiting",
    "cadenza_num_requests_running",
    "cadenza_kv_cache_usage_ratio",
)


async def _cancel_after(live: Live, seconds: float, messages: int, **parameters: Any) -> str:
    call = live.stub.StreamCompletion(stream(**parameters))
    await asyncio.sleep(seconds)
    for _ in range(messages):
        await call.read()
    call.cancel()
    return "cancelled"


async def _run_out_of_time(live: Live, seconds: float, **parameters: Any) -> str:
    call = live.stub.StreamCompletion(stream(**parameters), timeout=seconds)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "answered"


def _threads() -> set[str]:
    """Names, without the pool in which the tests read the metrics."""
    return {one.name for one in threading.enumerate() if not one.name.startswith("asyncio_")}


@pytest.fixture
async def live(artifact: Path) -> AsyncIterator[Live]:
    async with live_server(artifact, ScriptedRunner(step_seconds=0.001), mixed_prefill_tokens=8) as one:
        yield one


async def test_cancels_and_deadlines_at_random_points_leave_nothing(live: Live) -> None:
    await live.still_serves()
    tasks, threads = len(asyncio.all_tasks()), _threads()
    chance, ends = random.Random(4), Counter[str]()
    room = asyncio.Semaphore(AT_ONCE)

    async def one(kind: str) -> None:
        async with room:
            parameters = {
                "prompt": chance.choice(("ab", "a" * 100)), "n": chance.choice((1, 1, 3)), "max_tokens": 28,
                "ignore_eos": True, "cache_prompt": chance.choice((True, False)),
                "stop": ["never"],  # so the server does not see beforehand how long it takes
            }  # fmt: skip
            if kind == "cancel":
                seconds, messages = chance.uniform(0, 0.03), chance.choice((0, 0, 1, 28))
                ends[await _cancel_after(live, seconds, messages, **parameters)] += 1
            else:
                ends[await _run_out_of_time(live, chance.uniform(0.001, 0.06), **parameters)] += 1

    await asyncio.gather(*(one(kind) for kind in ("cancel", "deadline") * REQUESTS))
    for gauge in ZERO:
        await live.until(gauge, 0)
    assert ends["cancelled"] == REQUESTS
    assert ends["DEADLINE_EXCEEDED"] > REQUESTS / 2
    assert set(ends) <= {"cancelled", "DEADLINE_EXCEEDED", "answered"}
    for stage in ("queue", "prefill", "decode"):
        reached = f'cadenza_requests_cancelled_total{{cause="client",model="tiny",stage="{stage}"}}'
        assert await live.metric(reached) > 0, f"none ended in {stage}"
    await live.still_serves()
    assert _threads() == threads
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 only the tasks themselves can be looked at
            await asyncio.sleep(0)
