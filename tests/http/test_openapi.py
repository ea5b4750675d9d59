"""The served description of the API is true."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.http.clients import connect
from tests.http.fuzz import command
from tests.server.live import Live

from cadenza.server.http import answers

CHAT = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2}
TEXT = {"prompt": "a", "logprobs": 2, "echo": True, "n": 2}


async def test_schemathesis_finds_no_answer_other_than_described(live: Live, tmp_path: Path) -> None:
    run = command(live.ports.http, 300, "fuzzing")
    process = await asyncio.create_subprocess_exec(*run, cwd=tmp_path, stdout=asyncio.subprocess.PIPE)
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    generated = re.search(r"(\d+) generated", printed)
    assert generated is not None, printed
    assert int(generated[1]) >= 250
    await live.still_serves()


@pytest.mark.parametrize(
    ("path", "fields", "whole", "chunk"),
    [
        ("/v1/completions", TEXT, answers.Completion, answers.CompletionChunk),
        ("/v1/chat/completions", CHAT, answers.ChatCompletion, answers.ChatCompletionChunk),
    ],
)
async def test_answers_and_events_are_as_described(
    live: Live, path: str, fields: dict[str, Any], whole: type[BaseModel], chunk: type[BaseModel]
) -> None:
    async with connect(live) as raw:
        await raw.post(path, json.dumps(fields).encode())
        status, headers, content = await raw.answer()
        assert (status, headers["content-type"]) == (200, "application/json")
        whole.model_validate(content)
        stream = {**fields, "stream": True, "stream_options": {"include_usage": True}}
        await raw.post(path, json.dumps(stream).encode(), {"connection": "close"})
        received = (await raw.reader.read()).decode()
    assert "content-type: text/event-stream" in received
    events = re.findall(r"^data: (.*)\n\n", received.replace("\r\n", "\n"), re.MULTILINE)
    assert events[-1] == "[DONE]"
    assert (
        len(events) >= 3
    )  # tokens that come while none is sent share an event; usage and the end have their own
    for event in events[:-1]:
        chunk.model_validate_json(event)


async def test_every_path_that_is_described_is_there(live: Live) -> None:
    _, text = await live.get("/openapi.json")
    paths = json.loads(text)["paths"]
    assert set(paths) == {"/v1/models", "/v1/models/{model}", "/v1/completions", "/v1/chat/completions"}
    for path, methods in paths.items():
        status, _ = await live.get(path.replace("{model}", "tiny"))
        assert status == (200 if "get" in methods else 405)
