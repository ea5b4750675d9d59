"""What is tried again, how often, when, and what never is."""

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import status_pb2
from tests.client.scripted import ScriptedServer, draining, error_info, out_of_range, queue_full, rich_status
from tests.client.twins import SyncTwin, Twin

from cadenza.client import (
    AsyncClient,
    CadenzaError,
    Cancelled,
    Client,
    InvalidRequest,
    QueueFull,
    ResourceExhausted,
    Unavailable,
    Unusable,
)

Connect = Callable[..., Twin]
CALLS = ["complete", "stream", "chat", "stream_chat", "count_tokens"]


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_that_met_an_unavailable_server_is_tried_again(
    server: ScriptedServer, connect: Connect, method: str
) -> None:
    server.failure, server.failing_calls = draining(), 2
    assert await connect(server.target).call(method, "x")
    assert len(server.requests) == 3
    assert len({metadata["x-request-id"] for metadata in server.metadata}) == 1


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_pauses_between_tries_grow(server: ScriptedServer, connect: Connect, method: str) -> None:
    server.failure = draining()
    with pytest.raises(Unavailable):
        await connect(server.target, max_retries=3).call(method, "x")
    pauses = [after - before for before, after in itertools.pairwise(server.arrivals)]
    assert len(pauses) == 3
    for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True):
        assert pause >= least


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_a_full_queue_is_tried_again_when_the_server_said(
    server: ScriptedServer, connect: Connect, method: str
) -> None:
    server.failure, server.failing_calls = queue_full(0.4), 1
    assert (await connect(server.target).call(method, "x")).text == "The capital is Paris."
    first, second = server.arrivals
    assert second - first >= 0.4


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_a_wait_beyond_the_timeout_is_not_begun(
    server: ScriptedServer, connect: Connect, method: str
) -> None:
    server.failure = queue_full(20)
    with pytest.raises(QueueFull) as caught:
        await connect(server.target).call(method, "x", timeout=10)
    assert caught.value.retry_after == 20
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_all_tries_share_one_timeout(server: ScriptedServer, connect: Connect, method: str) -> None:
    server.failure = queue_full(0.3)
    with pytest.raises(QueueFull):
        await connect(server.target).call(method, "x", timeout=1)
    left = [seconds for seconds in server.seconds_left if seconds is not None]
    assert len(left) in (2, 3)
    for before, after in itertools.pairwise(left):
        assert after < before - 0.29


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large", error_info("X")), ResourceExhausted),
        (out_of_range(), InvalidRequest),
        (rich_status(grpc.StatusCode.INTERNAL, "broken", error_info("ENGINE_FAILED")), CadenzaError),
        (rich_status(grpc.StatusCode.ABORTED, "no"), CadenzaError),
    ],
)
@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_what_will_not_help_is_not_tried_again(
    server: ScriptedServer,
    connect: Connect,
    method: str,
    failure: status_pb2.Status,
    kind: type[CadenzaError],
) -> None:
    server.failure = failure
    with pytest.raises(kind):
        await connect(server.target).call(method, "x")
    assert len(server.requests) == 1


async def test_nothing_is_tried_again_after_the_first_message(
    server: ScriptedServer, connect: Connect
) -> None:
    server.failure, server.fails_after = draining(), 1
    with pytest.raises(Unavailable):
        await connect(server.target).call("stream", "x")
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_retries_can_be_turned_off_for_a_client_and_on_for_a_call(
    server: ScriptedServer, connect: Connect, method: str
) -> None:
    server.failure, server.failing_calls = draining(), 2
    twin = connect(server.target, max_retries=0)
    with pytest.raises(Unavailable):
        await twin.call(method, "x")
    assert len(server.requests) == 1
    await twin.call(method, "x", max_retries=1)
    assert len(server.requests) == 3


def test_cancel_from_another_thread_ends_the_wait_for_the_next_try(
    server: ScriptedServer, client: Client
) -> None:
    server.failure = queue_full(30)
    stream = client.stream("x", timeout=60)
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(stream.collect)
        assert server.refused.wait(10)
        stream.cancel()
        with pytest.raises(Cancelled):
            reader.result(10)
    assert len(server.requests) == 1


async def test_cancel_ends_the_async_wait_for_the_next_try(
    server: ScriptedServer, async_client: AsyncClient
) -> None:
    server.failure = queue_full(30)
    stream = async_client.stream("x", timeout=60)
    reader = asyncio.create_task(stream.collect())
    assert await asyncio.to_thread(server.refused.wait, 10)
    stream.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(Cancelled):
            await reader
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_a_client_that_is_closed_between_two_tries_says_so(
    server: ScriptedServer, connect: Connect, method: str
) -> None:
    server.failure = queue_full(0.2)
    twin = connect(server.target)
    with ThreadPoolExecutor() as pool:
        if isinstance(twin, SyncTwin):
            calling = asyncio.wrap_future(pool.submit(asyncio.run, twin.call(method, "x")))
        else:
            calling = asyncio.ensure_future(twin.call(method, "x"))
        assert await asyncio.to_thread(server.refused.wait, 10)
        await asyncio.sleep(0.05)  # the refusal is on its way
        await twin.close()
        with pytest.raises((Unusable, Cancelled)):
            await calling
    assert len(server.requests) == 1
