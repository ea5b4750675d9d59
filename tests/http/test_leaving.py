"""Clients that leave, and clients that do not read."""

import asyncio
import random

import openai
import pytest
from tests.http.clients import body, connect
from tests.server.live import Live
from tests.server.scripted_runner import ScriptedRunner

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


async def test_a_reader_that_takes_nothing_holds_back_nobody(live: Live, client: openai.AsyncOpenAI) -> None:
    async with connect(live, limit=1) as raw:
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await raw.post("/v1/completions", body(max_tokens=100, stream=True, ignore_eos=True))
        await live.until("cadenza_requests_finished_total", 1)
        done = await client.completions.create(model="tiny", prompt="a", max_tokens=3)
        assert done.choices[0].text == "bcd"
