"""Many streams at once on the real server: each gets its own tokens, and everything is given back."""

import asyncio
from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess, serve
from tests.e2e.metrics import samples
from tests.real.checks import Reference
from tests.real.cpu_program import CACHE

from cadenza.client import AsyncClient, Client, DeadlineExceeded

pytestmark = pytest.mark.real_model

STREAMS = 32


def prompts(reference: Reference) -> list[tuple[tuple[int, ...], int]]:
    """32 prompts of 3 to 150 tokens, each with its own number of tokens to generate."""
    tokens = [token for case in reference.greedy for token in case.prompt]
    return [
        (tuple(tokens[13 * index : 13 * index + 3 + 37 * index % 148]), 8 + 5 * index % 40)
        for index in range(STREAMS)
    ]


async def streamed(client: AsyncClient, prompt: tuple[int, ...], count: int) -> list[int]:
    """The tokens of one greedy stream, as its messages brought them."""
    tokens: list[int] = []
    async with client.stream(prompt, max_tokens=count, temperature=0.0, ignore_eos=True) as stream:
        async for chunk in stream:
            for choice in chunk.choices:
                tokens += choice.token_ids
    return tokens


async def until(server: ServerProcess, running: int) -> dict[str, float]:
    """The metrics once so many requests run and none waits; fails where that never comes."""
    for _ in range(400):
        values = await asyncio.to_thread(samples, server)
        if values["cadenza_num_requests_running"] == running and not values["cadenza_num_requests_waiting"]:
            return values
        await asyncio.sleep(0.02)
    pytest.fail(f"there are never {running} requests running and none waiting")


async def test_concurrent_streams_get_the_tokens_they_get_alone(
    server: ServerProcess, reference: Reference
) -> None:
    before = await until(server, running=0)
    async with AsyncClient(server.target) as client:
        work = prompts(reference)
        together = await asyncio.gather(*(streamed(client, prompt, count) for prompt, count in work))
        loaded = await until(server, running=0)
        alone = [await streamed(client, prompt, count) for prompt, count in work]
    assert together == alone
    assert [len(tokens) for tokens in together] == [count for _, count in work]
    generated = loaded["cadenza_generated_tokens_total"] - before["cadenza_generated_tokens_total"]
    assert generated == sum(count for _, count in work)
    assert loaded["cadenza_kv_cache_usage_ratio"] == 0
    steps = loaded["cadenza_engine_step_sequences_count"] - before["cadenza_engine_step_sequences_count"]
    sequences = loaded["cadenza_engine_step_sequences_sum"] - before["cadenza_engine_step_sequences_sum"]
    assert sequences / steps > 4, "a step serves many requests"


async def test_a_stream_that_is_left_is_cancelled_on_the_server(server: ServerProcess) -> None:
    before = await until(server, running=0)
    async with (
        AsyncClient(server.target) as client,
        client.stream("Once upon a time", max_tokens=2000, ignore_eos=True) as stream,
    ):
        async for _ in stream:
            break
    after = await until(server, running=0)
    assert after["cadenza_kv_cache_usage_ratio"] == 0
    generated = after["cadenza_generated_tokens_total"] - before["cadenza_generated_tokens_total"]
    assert generated < 1000


def test_a_deadline_ends_the_request_and_frees_its_blocks(server: ServerProcess, client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        client.complete("Once upon a time", max_tokens=4000, ignore_eos=True, timeout=0.5)
    values = asyncio.run(until(server, running=0))
    assert values["cadenza_kv_cache_usage_ratio"] == 0


async def test_sigterm_lets_running_streams_finish(reference: Reference, real_int8: Path) -> None:
    with serve({"smollm2": real_int8}, "--cache-dir", str(CACHE)) as own:
        async with AsyncClient(own.target) as client:
            answers = [
                asyncio.create_task(client.complete(prompt, max_tokens=400, ignore_eos=True))
                for prompt, _ in prompts(reference)[:4]
            ]
            await until(own, running=len(answers))
            exited = asyncio.create_task(asyncio.to_thread(own.terminate))
            completions = await asyncio.gather(*answers)
        assert [completion.usage.completion_tokens for completion in completions] == [400] * 4
        assert await exited == 0
