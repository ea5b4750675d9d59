"""Tokens, who is the client, TLS beside a port without it, and pages of other origins."""

from pathlib import Path
from typing import Any

import openai
import pytest
import structlog
from tests.client.certificates import Authority
from tests.http.clients import base_url, body, connect
from tests.server.live import Live, live_server, settings
from tests.server.scripted_runner import ScriptedRunner

TOKEN = "a" * 32


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"alice {TOKEN}\n")
    return path


async def test_every_path_of_the_api_asks_for_a_token_and_probes_do_not(
    artifact: Path, runner: ScriptedRunner, token_file: Path
) -> None:
    async with live_server(artifact, runner, token_file=token_file) as live:
        for path in ("/v1/models", "/v1/models/tiny"):
            status, text = await live.get(path)
            assert (status, "invalid_api_key" in text) == (401, True)
        for path in ("/v1/completions", "/v1/chat/completions"):
            async with connect(live) as raw:
                await raw.post(path, body(), {"authorization": "Bearer wrong"})
                status, headers, _ = await raw.answer()
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/metrics", "/healthz", "/readyz", "/health"):
            assert (await live.get(path))[0] == 200


async def test_the_tokens_name_is_the_client(
    artifact: Path, runner: ScriptedRunner, token_file: Path
) -> None:
    async with live_server(artifact, runner, token_file=token_file) as live:
        assert await _client_logged(live, TOKEN, user="mallory") == "alice"


@pytest.mark.parametrize(
    ("user", "headers", "client"),
    [
        ("bob", {"cadenza-client-id": "jobs"}, "bob"),
        ("b\u00f6b\n", {}, "b\\xf6b\\n"),
        ("", {"cadenza-client-id": "jobs"}, "jobs"),
        ("", {}, "127.0.0.1"),
    ],
)
async def test_without_tokens_the_client_is_the_user_the_header_or_the_host(
    live: Live, user: str, headers: dict[str, str], client: str
) -> None:
    assert await _client_logged(live, "none", user=user, extra_headers=headers) == client


async def _client_logged(live: Live, key: str, **fields: Any) -> object:
    async with openai.AsyncOpenAI(base_url=base_url(live), api_key=key, max_retries=0) as client:
        with structlog.testing.capture_logs() as lines:
            await client.completions.create(model="tiny", prompt="a", max_tokens=1, **fields)
            await live.until("cadenza_http_requests_total{", 1)
    return next(line["client"] for line in lines if line["event"] == "call")


@pytest.mark.parametrize(("wanted", "status"), [("auto", 404), ("on", 200)])
async def test_beside_tls_the_api_is_off_unless_it_is_asked_for(
    artifact: Path, runner: ScriptedRunner, tmp_path: Path, wanted: str, status: int
) -> None:
    pair = Authority(tmp_path / "authority").issue("localhost")
    tls: dict[str, Any] = {"tls_certificate": pair.cert, "tls_key": pair.key}
    async with live_server(artifact, runner, **tls, openai=wanted) as live:
        assert (await live.get("/v1/models"))[0] == status
        assert (await live.get("/health"))[0] == 200


async def test_pages_of_other_origins_may_call_where_they_are_allowed(
    artifact: Path, runner: ScriptedRunner
) -> None:
    origin = {"origin": "http://ui.example"}
    for allowed, header in (((), None), (("http://ui.example",), "http://ui.example")):
        async with live_server(artifact, runner, allowed_origin=allowed) as live, connect(live) as raw:
            await raw.post("/v1/completions", body(max_tokens=1), origin)
            assert (await raw.answer())[1].get("access-control-allow-origin") == header


def test_origins_are_repeated_or_comma_separated() -> None:
    assert settings(model=("a=b",), allowed_origin="x,y").allowed_origin == ("x", "y")
