"""What is refused over HTTP: OpenAI's shape, the right status, and when to try again."""

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.http.clients import body, connect, error_of
from tests.server.live import HandClock, Live, live_server
from tests.server.scripted_runner import ScriptedRunner

BAD = [
    ({"temperature": -1}, "temperature", "field_out_of_range", "it must be from 0 to 100; 0 is greedy"),
    ({"temperature": "hot"}, "temperature", "malformed_request", "valid number"),
    ({"max_tokens": 0}, "max_tokens", "field_out_of_range", "greater than or equal to 1"),
    ({"max_tokens": 128}, "max_tokens", "field_out_of_range", "128 of context less 1 of prompt"),
    ({"n": 17}, "n", "field_out_of_range", "less than or equal to 16"),
    ({"n": 5}, "n", "field_out_of_range", "from 1 to 4"),
    ({"n": True}, "n", "malformed_request", "valid integer"),
    ({"top_k": 2**31}, "top_k", "field_out_of_range", "it must be from 0 to"),
    ({"seed": 2**64}, "seed", "field_out_of_range", "less than"),
    ({"stop": ["a", ""]}, "stop", "malformed_request", "none of them empty"),
    ({"stop": ["a"] * 17}, "stop", "malformed_request", "a text or several"),
    ({"logit_bias": {"999": 1}}, "logit_bias[999]", "invalid_token_id", "0 to 259"),
    ({"logit_bias": {"5": 101}}, "logit_bias[5]", "field_out_of_range", "from -100 to 100"),
    ({"prompt": ""}, "prompt", "malformed_request", "none of them empty"),
    ({"prompt": [[1], [2, 999]]}, "prompt[1][1]", "invalid_token_id", "0 to 259"),
    ({"prompt": "a" * 200}, "prompt", "context_length_exceeded", "shorten it"),
    ({"prompt": ["a", "b" * 200]}, "prompt[1]", "context_length_exceeded", "shorten it"),
    ({"foo": 1}, "foo", "unknown_field", "leave it out"),
    ({"suffix": "end"}, "suffix", "unsupported_field", "no text after the completion"),
    ({"best_of": 3}, "best_of", "unsupported_field", "only as many choices as `n`"),
    ({"stream_options": {"foo": 1}}, "stream_options.foo", "unknown_field", "leave it out"),
]
BAD_CHATS = [
    ({"tools": [{}]}, "tools", "unsupported_field", "the models call no tools"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "unsupported_field", "forced"),
    ({"top_logprobs": 3}, "top_logprobs", "field_out_of_range", "set logprobs to true"),
    ({"messages": []}, "messages", "field_out_of_range", "at least 1 item"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_role", "one of system"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_field", "set it"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content", "malformed_request", "images, sound and files are not supported",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code", "words"), BAD)
async def test_a_bad_completion_says_which_field_and_why(
    live: Live, fields: dict[str, Any], param: str, code: str, words: str
) -> None:
    async with connect(live) as raw:
        await raw.post("/v1/completions", body(**fields))
        status, _, content = await raw.answer()
    error = content["error"]
    assert (status, error["type"], error["param"], error["code"]) == (
        400, "invalid_request_error", param, code
    )  # fmt: skip
    assert words in error["message"]
    assert param in error["message"]


@pytest.mark.parametrize(("fields", "param", "code", "words"), BAD_CHATS)
async def test_a_bad_chat_says_which_field_and_why(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str, code: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as raised:
        await client.chat.completions.create(
            **{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
        )
    assert (raised.value.param, raised.value.code) == (param, code)


@pytest.mark.parametrize(
    "sent", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"prompt": "\\ud800"}', b"[" * 100_000, b'{"n": 1e999}']
)
async def test_what_is_no_json_object_is_a_bad_request(live: Live, sent: bytes) -> None:
    async with connect(live) as raw:
        await raw.post("/v1/completions", sent)
        status, _, content = await raw.answer()
        assert (status, content["error"]["code"]) == (400, "malformed_request")
    await live.still_serves()


async def test_a_body_that_is_too_long_is_not_read(artifact: Path, runner: ScriptedRunner) -> None:
    async with live_server(artifact, runner, max_message_bytes=1024) as live, connect(live) as raw:
        await raw.post("/v1/completions", b" " * 2000)
        status, headers, content = await raw.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert "this server takes 1024" in content["error"]["message"]


async def test_a_model_that_is_not_there_and_a_path_that_is_not_there(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as model:
        await client.completions.create(model="other", prompt="a")
    assert error_of(model.value)["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError) as path:
        await client.embeddings.create(model="tiny", input="a")
    assert error_of(path.value)["code"] == "not_found"
    assert "/openapi.json" in path.value.message


async def test_a_full_queue_says_when_to_come_back(artifact: Path, runner: ScriptedRunner) -> None:
    runner.hold()
    async with (
        live_server(artifact, runner, HandClock(), max_queue_requests=1) as live,
        connect(live) as first,
        connect(live) as second,
    ):
        await first.post("/v1/completions", body())
        await live.begun(1)
        await second.post("/v1/completions", body())
        status, headers, content = await second.answer()
        assert (status, headers["retry-after"], headers["retry-after-ms"]) == (429, "1", "1000")
        assert (content["error"]["type"], content["error"]["code"]) == ("rate_limit_error", "queue_full")
        assert await live.metric('cadenza_requests_rejected_total{reason="QUEUE_FULL"}') == 1


async def test_a_server_that_drains_is_unavailable(live: Live, runner: ScriptedRunner) -> None:
    runner.hold()
    async with connect(live) as running, connect(live) as late:
        await running.post("/v1/completions", body(max_tokens=2))
        await live.begun(1)
        for model in live.server._models.loaded():
            model.dispatcher.begin_drain()
        await late.post("/v1/completions", body())
        status, headers, content = await late.answer()
        assert (status, headers["retry-after"], content["error"]["code"]) == (503, "1", "server_draining")
        runner.allow()
        assert (await running.answer())[2]["choices"][0]["text"] == "bc"


async def test_a_failed_step_is_a_status_before_the_first_token_and_an_event_after_it(
    live: Live, client: openai.AsyncOpenAI, runner: ScriptedRunner
) -> None:
    runner.fail(1)
    with pytest.raises(openai.InternalServerError) as raised:
        await client.completions.create(model="tiny", prompt="a", stream=True)
    assert raised.value.code == "engine_failed"
    runner.hold()
    runner.allow(1)
    stream = await client.completions.create(model="tiny", prompt="a", stream=True)
    assert (await anext(stream)).choices[0].text == "b"
    runner.fail(1)
    runner.allow()
    with pytest.raises(openai.APIError, match="the inference engine failed") as late:
        await anext(stream)
    assert late.value.code == "engine_failed"
    await live.still_serves()


async def test_calls_keep_their_request_id_and_are_counted(live: Live, client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(
        model="tiny", prompt="a", max_tokens=1, extra_headers={"x-request-id": "mine"}
    )
    assert (done.id, done._request_id) == ("cmpl-mine", "mine")
    await live.until('cadenza_http_requests_total{code="200",path="/v1/completions"}', 1)
