"""Several tokens in one step, as clients and metrics see them."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.live import Live, create, live_server, stream
from tests.server.scripted_runner import LIMITS, ScriptedRunner

LOOP = {ord("c"): ord("a")}
"""After a, b, c comes a."""


@pytest.fixture
async def looping(artifact: Path) -> AsyncIterator[Live]:
    limits = dataclasses.replace(LIMITS, block_size=32, takes_drafts=True)
    async with live_server(artifact, ScriptedRunner(LOOP, limits)) as one:
        yield one


async def test_an_answer_with_drafts_is_the_one_without(looping: Live, artifact: Path) -> None:
    request = create("abcabc", max_tokens=20, logprobs=1, n=2, stop=["never"])
    fast = await looping.stub.CreateCompletion(request)
    async with live_server(artifact, ScriptedRunner(LOOP), speculation_tokens=0) as plain:
        slow = await plain.stub.CreateCompletion(request)
        assert len(plain.runner.batch_sizes) > len(looping.runner.batch_sizes)
    assert fast.choices == slow.choices
    assert fast.choices[0].text == "abcabcabcabcabcabcab"
    assert fast.usage == slow.usage


async def test_a_stream_shows_all_tokens_once(looping: Live) -> None:
    text, token_ids = "", []
    async for message in looping.stub.StreamCompletion(stream("abcabc", max_tokens=20)):
        text += "".join(choice.text for choice in message.choices)
        token_ids += [token_id for choice in message.choices for token_id in choice.token_ids]
    assert text == "abcabcabcabcabcabcab"
    assert bytes(token_ids).decode() == text


async def test_metrics_count_drafts_and_every_token(looping: Live) -> None:
    await looping.text("abcabc", max_tokens=20)
    drafted = await looping.metric("cadenza_draft_tokens_total")
    accepted = await looping.metric("cadenza_draft_tokens_accepted_total")
    steps = await looping.metric("cadenza_engine_steps_total")
    assert drafted >= accepted > 0
    assert steps + accepted == 20
    assert await looping.metric("cadenza_generated_tokens_total") == 20
    # Tokens of one step have no time between them.
    assert await looping.metric("cadenza_inter_token_latency_seconds_count") == 19
    assert await looping.metric('cadenza_inter_token_latency_seconds_bucket{le="0.0005"') >= accepted


async def test_a_server_without_drafts_makes_none(artifact: Path) -> None:
    limits = dataclasses.replace(LIMITS, takes_drafts=True)
    async with live_server(artifact, ScriptedRunner(LOOP, limits), speculation_tokens=0) as one:
        assert await one.text("abcabc", max_tokens=9) == "abcabcabc"
        assert await one.metric("cadenza_draft_tokens_total") == 0
        assert await one.metric("cadenza_engine_steps_total") == 9
