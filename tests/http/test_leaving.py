"""Clients that leave, and clients that do not read."""

import asyncio
import random
from typing import Any

import openai
import pytest
from tests.http.clients import body, connect
from tests.server.live import Live
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.http.heads import BoundedHeads

PROMPTS = 40
LARGEST_ANSWER = 1 << 20
"""Bytes of all choices of one prompt, which may have been merged into one piece."""
CANCELLED = 'cadenza_requests_cancelled_total{cause="client"'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_request(
    live: Live, runner: ScriptedRunner, *, stream: bool
) -> None:
    runner.hold()
    async with connect(live) as raw:
        await raw.post("/v1/completions", body(max_tokens=100, stream=stream))
        await live.begun(1)
        raw.leave()
        await live.until(CANCELLED, 1)
    runner.allow()
    await live.until("cadenza_num_requests_running", 0)
    assert await live.metric('cadenza_http_requests_total{code="499"') == 1
    await live.still_serves()


async def test_a_stream_that_is_closed_early_cancels_all_prompts_of_its_batch(
    live: Live, client: openai.AsyncOpenAI, runner: ScriptedRunner
) -> None:
    runner.hold()
    runner.allow(2)
    stream = await client.completions.create(
        model="tiny", prompt=["a", "b", "c"], max_tokens=90, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(stream)
    await stream.close()
    await live.until(CANCELLED, 3)
    runner.allow()
    await live.until("cadenza_num_requests_running", 0)


async def test_hundreds_of_clients_that_leave_at_random_leave_nothing_running(live: Live) -> None:
    chance = random.Random(9)

    async def one() -> None:
        async with connect(live) as raw:
            sent = body(max_tokens=100, stream=chance.random() < 0.5, ignore_eos=True)
            if chance.random() < 0.2:
                raw.writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
            else:
                await raw.post("/v1/completions", sent)
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            raw.leave()

    for _ in range(25):
        await asyncio.gather(*(one() for _ in range(20)))
    await live.until("cadenza_num_requests_running", 0)
    await live.until("cadenza_num_requests_waiting{", 0)
    assert not [stream for model in live.server._models.loaded() for stream in model.dispatcher._streams]
    await live.still_serves()


async def test_a_stream_is_finished_while_the_server_drains(live: Live, runner: ScriptedRunner) -> None:
    runner.hold()
    async with connect(live) as raw:
        await raw.post("/v1/completions", body(max_tokens=3))
        await live.begun(1)
        stopping = asyncio.create_task(live.server.stop(drain_seconds=10))
        runner.allow()
        status, _, answer = await raw.answer()
        assert (status, answer["choices"][0]["text"]) == (200, "bcd")
        assert await stopping


@pytest.mark.parametrize("line", [b"x-long: " + b"a" * 100_000, b"x: y\r\n" * 20_000])
async def test_a_head_that_does_not_end_ends_the_connection(live: Live, line: bytes) -> None:
    async with connect(live) as raw:
        raw.writer.write(b"GET /v1/models HTTP/1.1\r\n" + line)
        assert (await raw.reader.readline()).startswith(b"HTTP/1.1 400")
        assert await raw.reader.read() is not None
    await live.still_serves()


async def test_a_client_that_sends_its_head_too_slowly_is_left(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHeads, "head_seconds", 0.05)
    async with connect(live) as silent, connect(live) as slow:
        slow.writer.write(b"GET /v1/models HTTP/1.1\r\nhost:")
        assert await silent.reader.read() == b""
        assert await slow.reader.read() == b""


async def test_a_reader_that_takes_nothing_holds_back_nobody(live: Live, client: openai.AsyncOpenAI) -> None:
    async with connect(live, receive_buffer=4096) as raw:
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        sent = body(prompt=["a"] * PROMPTS, n=4, max_tokens=100, logprobs=20, stream=True, ignore_eos=True)
        await raw.post("/v1/completions", sent)
        done = await client.completions.create(
            model="tiny", prompt="a", max_tokens=3, extra_body={"priority": 9}
        )
        assert done.choices[0].text == "bcd"
        await live.until("cadenza_requests_finished_total", PROMPTS + 1)
        connections: Any = live.server._http._server.server_state.connections
        (unread,) = [one.transport.get_write_buffer_size() for one in connections if one.flow.write_paused]
        assert 0 < unread < LARGEST_ANSWER
        raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
        received = 0
        while not (piece := await raw.reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
            received += len(piece)
        assert received > LARGEST_ANSWER
