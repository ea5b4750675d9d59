"""The HTTP port beside a gRPC port that asks for tokens: what its description lists asks for them too."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.security.secured import ALICE, FAST, reloads, replace
from tests.server.live import Live, live_server
from tests.server.scripted_runner import ScriptedRunner

FOR_PROBES = {"/metrics", "/healthz", "/readyz", "/health", "/openapi.json"}


@pytest.fixture
async def live(artifact: Path, runner: ScriptedRunner, token_file: Path) -> AsyncIterator[Live]:
    async with live_server(artifact, runner, token_file=token_file, **FAST) as one:
        yield one


async def test_without_a_token_only_probes_are_answered(live: Live) -> None:
    described = json.loads((await live.get("/openapi.json"))[1])["paths"]
    answered = {
        path
        for path, methods in described.items()
        for method in methods
        if await _status(live, method, path) != 401
    }
    assert answered <= FOR_PROBES
    assert len(described) > len(answered)
    for path in FOR_PROBES:
        assert (await live.get(path))[0] == 200


async def test_tokens_are_those_of_grpc_and_rotate_with_them(live: Live, token_file: Path) -> None:
    assert await _status(live, "get", "/v1/models", ALICE) == 200
    replace(token_file, f"bob {'b' * 32}\n")
    await live.until(reloads("tokens", "loaded"), 1)
    assert await _status(live, "get", "/v1/models", ALICE) == 401
    assert await _status(live, "get", "/v1/models", "b" * 32) == 200


async def _status(live: Live, method: str, path: str, token: str | None = None) -> int:
    """How a request without a body ends."""
    url = f"http://127.0.0.1:{live.ports.http}{re.sub('{.*?}', 'x', path)}"
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, method=method.upper(), headers=headers)

    def ask() -> int:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                status: int = response.status
                return status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(ask)
