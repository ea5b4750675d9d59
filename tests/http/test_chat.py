"""Chats by OpenAI's client, rendered by the template of the tests' artifact, which ends in `a`."""

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.http.clients import base_url
from tests.server.artifacts import write_artifact
from tests.server.live import Live, live_server
from tests.server.scripted_runner import ScriptedRunner

HI: Any = [{"role": "user", "content": "hi"}]


async def test_a_chat_is_answered_by_a_message(client: openai.AsyncOpenAI) -> None:
    done = await client.chat.completions.create(model="tiny", messages=HI, max_tokens=3)
    choice = done.choices[0]
    assert (done.object, choice.message.role, choice.message.content) == (
        "chat.completion", "assistant", "bcd"
    )  # fmt: skip
    assert choice.finish_reason == "length"


async def test_a_streamed_chat_begins_with_the_role_and_ends_with_a_reason(
    client: openai.AsyncOpenAI,
) -> None:
    stream: Any = await client.chat.completions.create(
        model="tiny", messages=HI, max_completion_tokens=3, max_tokens=9, stream=True
    )
    choices = [piece.choices[0] async for piece in stream]
    assert "".join(choice.delta.content for choice in choices) == "bcd"
    assert [choice.delta.role for choice in choices] == ["assistant", *[None] * (len(choices) - 1)]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["length"]


async def test_the_clients_own_stream_helper_understands_it(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="tiny", messages=HI, stop="d") as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_completion()).choices[0].message.content == "bc"


async def test_parts_of_text_are_one_text(live: Live, client: openai.AsyncOpenAI) -> None:
    parts: Any = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    for content in ("hi", parts):
        messages: Any = [{"role": "user", "content": content}]
        await client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=1, extra_body={"cache_prompt": False}
        )
    first, second = (one.token_ids for one in live.runner.slices)
    assert first == second


async def test_log_probabilities_come_with_the_bytes_of_tokens(client: openai.AsyncOpenAI) -> None:
    done: Any = await client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=1, logprobs=True, top_logprobs=2
    )
    (token,) = done.choices[0].logprobs.content
    assert (token.token, token.logprob, token.bytes) == ("b", -98, [98])
    assert [(top.token, top.logprob) for top in token.top_logprobs] == [("\x00", 0), ("\x01", -1)]


async def test_what_the_template_refuses_is_a_bad_request(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "developer", "content": "be brief"}]
    with pytest.raises(openai.BadRequestError, match="no system messages here"):
        await client.chat.completions.create(model="tiny", messages=messages)


async def test_a_model_without_a_template_says_where_to_go(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "tiny" / "1", chat=False)
    async with (
        live_server(artifact, ScriptedRunner()) as live,
        openai.AsyncOpenAI(base_url=base_url(live), api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="send texts to /v1/completions") as raised:
            await client.chat.completions.create(model="tiny", messages=HI)
        assert raised.value.code == "no_chat_template"
