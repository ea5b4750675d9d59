"""Streams as they are read, and what the server sees when a reader leaves early."""

import asyncio
import contextlib
import gc
import threading

import pytest
from tests.client.scripted import PARIS, ScriptedServer, piece, queue_full

from cadenza.client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FinishReason,
    InternalError,
    QueueFull,
)

WAIT = 10


@pytest.fixture
def hanging(server: ScriptedServer) -> ScriptedServer:
    """The server sends one chunk, then waits until the call ends."""
    server.hangs_after = 1
    return server


async def cancelled_on(server: ScriptedServer) -> bool:
    return await asyncio.to_thread(server.cancelled.wait, WAIT)


def test_chunks_come_as_they_were_sent(client: Client) -> None:
    with client.stream("x") as stream:
        assert (stream.usage, stream.timing) == (None, None)
        first = next(stream)
        assert (first.text, first.token_ids, first.finish_reason) == ("The capital", (5, 6), None)
        assert (first.usage, stream.usage) == (None, None)
        (last,) = stream
        assert (last.text, last.finish_reason) == (" is Paris.", FinishReason.STOP)
        assert stream.usage == last.usage
        assert stream.usage is not None
        assert stream.usage.completion_tokens == 4
        assert stream.timing is not None
        assert stream.timing.decode == 1.5
        assert list(stream) == []


async def test_async_chunks_come_as_they_were_sent(async_client: AsyncClient) -> None:
    async with async_client.stream_chat("x") as stream:
        first = await anext(stream)
        assert (first.text, stream.usage) == ("The capital", None)
        assert [chunk.text async for chunk in stream] == [" is Paris."]
        assert stream.usage is not None
        assert stream.timing is not None
        assert [chunk async for chunk in stream] == []


async def test_text_gives_the_pieces_of_the_first_choice(
    server: ScriptedServer, client: Client, async_client: AsyncClient
) -> None:
    server.answer = (piece("a", 1), piece("", 2), piece("B", 3, index=1), *PARIS)
    expected = ["a", "The capital", " is Paris."]
    assert list(client.stream("x").text()) == expected
    assert [text async for text in async_client.stream("x").text()] == expected


async def test_collect_holds_what_was_read_before(client: Client, async_client: AsyncClient) -> None:
    stream, async_stream = client.stream("x"), async_client.stream("x")
    next(stream)
    await anext(async_stream)
    assert stream.collect() == await async_stream.collect() == stream.collect()
    assert stream.collect().text == "The capital is Paris."


def test_break_cancels_on_the_server_though_the_stream_is_still_held(
    hanging: ScriptedServer, client: Client
) -> None:
    stream = client.stream("x")
    for _ in stream:
        break
    assert hanging.cancelled.wait(WAIT)
    with pytest.raises(Cancelled):
        stream.collect()


def test_break_out_of_the_text_cancels_on_the_server(hanging: ScriptedServer, client: Client) -> None:
    for _ in client.stream("x").text():
        break
    assert hanging.cancelled.wait(WAIT)


def test_an_exception_in_the_loop_cancels_on_the_server(hanging: ScriptedServer, client: Client) -> None:
    with contextlib.suppress(LookupError):
        for _ in client.stream("x"):
            raise LookupError
    assert hanging.cancelled.wait(WAIT)


def test_leaving_the_with_block_cancels_on_the_server(hanging: ScriptedServer, client: Client) -> None:
    with client.stream("x") as stream:
        next(stream)
    assert hanging.cancelled.wait(WAIT)


def test_dropping_the_stream_cancels_on_the_server(hanging: ScriptedServer, client: Client) -> None:
    stream = client.stream("x")
    next(stream)
    del stream
    gc.collect()
    assert hanging.cancelled.wait(WAIT)


def test_cancel_from_another_thread_ends_the_reader(hanging: ScriptedServer, client: Client) -> None:
    stream = client.stream("x")
    next(stream)
    threading.Thread(target=stream.cancel).start()
    with pytest.raises(Cancelled):
        next(stream)
    assert hanging.cancelled.wait(WAIT)


def test_closing_the_client_cancels_its_streams(hanging: ScriptedServer) -> None:
    with Client(hanging.target) as client:
        stream = client.stream("x")
        next(stream)
    assert hanging.cancelled.wait(WAIT)
    with pytest.raises(Cancelled):
        next(stream)


async def test_async_break_cancels_on_the_server(hanging: ScriptedServer, async_client: AsyncClient) -> None:
    stream = async_client.stream("x")
    async for _ in stream:
        break
    assert await cancelled_on(hanging)
    with pytest.raises(Cancelled):
        await stream.collect()


async def test_async_break_out_of_the_text_cancels_on_the_server(
    hanging: ScriptedServer, async_client: AsyncClient
) -> None:
    async for _ in async_client.stream("x").text():
        break
    assert await cancelled_on(hanging)


async def test_an_exception_in_the_async_loop_cancels_on_the_server(
    hanging: ScriptedServer, async_client: AsyncClient
) -> None:
    with contextlib.suppress(LookupError):
        async for _ in async_client.stream("x"):
            raise LookupError
    assert await cancelled_on(hanging)


async def test_leaving_the_async_with_block_cancels_on_the_server(
    hanging: ScriptedServer, async_client: AsyncClient
) -> None:
    async with async_client.stream("x") as stream:
        await anext(stream)
    assert await cancelled_on(hanging)


async def test_dropping_the_async_stream_cancels_on_the_server(
    hanging: ScriptedServer, async_client: AsyncClient
) -> None:
    stream = async_client.stream("x")
    await anext(stream)
    del stream
    assert await cancelled_on(hanging)


async def test_cancelling_the_reading_task_cancels_on_the_server(
    hanging: ScriptedServer, async_client: AsyncClient
) -> None:
    stream = async_client.stream("x")
    task = asyncio.create_task(stream.collect())
    assert await asyncio.to_thread(hanging.hanging.wait, WAIT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cancelled_on(hanging)
    with pytest.raises(Cancelled):
        await stream.collect()


async def test_cancel_ends_the_async_reader_without_cancelling_its_task(
    hanging: ScriptedServer, async_client: AsyncClient
) -> None:
    stream = async_client.stream("x")
    task = asyncio.create_task(stream.collect())
    assert await asyncio.to_thread(hanging.hanging.wait, WAIT)
    stream.cancel()
    with pytest.raises(Cancelled):
        await task
    assert await cancelled_on(hanging)


async def test_closing_the_async_client_cancels_its_calls(hanging: ScriptedServer) -> None:
    client = AsyncClient(hanging.target)
    task = asyncio.create_task(client.complete("x"))
    assert await asyncio.to_thread(hanging.hanging.wait, WAIT)
    await client.close()
    with pytest.raises(Cancelled):
        await task
    assert await cancelled_on(hanging)


async def test_cancelling_the_task_of_a_unary_call_cancels_on_the_server(
    hanging: ScriptedServer, async_client: AsyncClient
) -> None:
    task = asyncio.create_task(async_client.complete("x"))
    assert await asyncio.to_thread(hanging.hanging.wait, WAIT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cancelled_on(hanging)


def test_a_stream_dropped_after_its_event_loop_ended_still_cancels_on_the_server(
    hanging: ScriptedServer,
) -> None:
    async def left_open() -> object:
        stream = AsyncClient(hanging.target).stream("x")
        await anext(stream)
        return stream

    stream = asyncio.run(left_open())
    del stream
    gc.collect()
    assert hanging.cancelled.wait(WAIT)


async def test_a_failure_after_some_chunks_is_raised_where_the_stream_is_read(
    server: ScriptedServer, client: Client, async_client: AsyncClient
) -> None:
    server.failure, server.fails_after = queue_full(1.5), 1
    stream, async_stream = client.stream("x"), async_client.stream("x")
    assert next(stream).text == (await anext(async_stream)).text == "The capital"
    with pytest.raises(QueueFull):
        next(stream)
    with pytest.raises(QueueFull):
        await anext(async_stream)
    with pytest.raises(QueueFull):
        stream.collect()
    with pytest.raises(QueueFull):
        await async_stream.collect()


async def test_a_stream_that_takes_longer_than_its_timeout_ends_in_deadline_exceeded(
    hanging: ScriptedServer, client: Client, async_client: AsyncClient
) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
        client.stream("x", timeout=0.2).collect()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
        await async_client.stream("x", timeout=0.2).collect()
    assert await cancelled_on(hanging)


def test_a_stream_without_any_answer_is_an_error_of_the_server(
    server: ScriptedServer, client: Client
) -> None:
    server.answer = ()
    with pytest.raises(InternalError, match="EMPTY_ANSWER"):
        client.stream("x").collect()
