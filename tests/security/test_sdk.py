"""The SDK and the server together: mutual TLS, and tokens and certificates that rotate under both."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from tests.client.certificates import Authority, Pair
from tests.security.secured import ALICE, Installed, clients_logged, reloads, replace
from tests.server.live import Live, live_server
from tests.server.scripted_runner import ScriptedRunner

from cadenza.client import AsyncClient, Client, ConnectionFailed, ServingStatus, Tls, Unauthenticated

BOB = "b" * 32


@pytest.fixture
def installed(tmp_path: Path, server_pair: Pair, authority: Authority) -> Installed:
    return Installed(tmp_path / "tls", server_pair, authority.ca.cert)


@pytest.fixture
async def secured(
    artifact: Path, runner: ScriptedRunner, installed: Installed, token_file: Path
) -> AsyncIterator[Live]:
    """A server that asks for a certificate and a token, and looks often whether its own have changed."""
    async with live_server(artifact, runner, token_file=token_file, **installed.settings) as live:
        yield live


@pytest.fixture
def sdk_token(tmp_path: Path) -> Path:
    """The file from which the SDK takes its token."""
    path = tmp_path / "sdk-token"
    path.write_text(ALICE)
    return path


async def test_both_clients_complete_stream_and_ask_for_health(
    secured: Live, authority: Authority, client_pair: Pair, sdk_token: Path
) -> None:
    tls, target = _tls(authority, client_pair), f"localhost:{secured.ports.grpc}"
    async with AsyncClient(target, tls=tls, token=sdk_token) as client:
        assert (await client.complete("a", max_tokens=3)).text == "bcd"
        async with client.stream("a", max_tokens=3) as stream:
            assert "".join([text async for text in stream.text()]) == "bcd"
        assert await client.health() is ServingStatus.SERVING

    def synchronous() -> None:
        with Client(target, tls=tls, token=sdk_token) as client:
            assert client.complete("a", max_tokens=3).text == "bcd"
            assert client.health() is ServingStatus.SERVING

    await asyncio.to_thread(synchronous)


async def test_a_client_outlives_the_rotation_of_tokens_and_certificates(
    secured: Live,
    installed: Installed,
    authority: Authority,
    client_pair: Pair,
    token_file: Path,
    sdk_token: Path,
) -> None:
    target = f"localhost:{secured.ports.grpc}"
    async with AsyncClient(
        target, tls=_tls(authority, client_pair), token=sdk_token, client_id="claimed", max_retries=0
    ) as client:
        with structlog.testing.capture_logs() as lines:
            await client.complete("a", max_tokens=3)
            replace(token_file, f"alice {ALICE}\nbob {BOB}\n")
            await secured.until(reloads("tokens", "loaded"), 1)
            replace(sdk_token, BOB)
            await client.complete("a", max_tokens=3)
            replace(token_file, f"bob {BOB}\n")
            installed.put(authority.issue("localhost"))
            await secured.until(reloads("tokens", "loaded"), 2)
            await secured.until(reloads("certificate", "loaded"), 1)
            assert (await client.complete("a", max_tokens=3)).text == "bcd"
            assert await clients_logged(lines, 3) == ["alice", "bob", "bob"]


async def test_the_sdk_says_what_the_server_asks_for(
    secured: Live, authority: Authority, client_pair: Pair
) -> None:
    target = f"localhost:{secured.ports.grpc}"
    for token, reason in ((None, "TOKEN_MISSING"), (BOB, "TOKEN_INVALID")):
        async with AsyncClient(target, tls=_tls(authority, client_pair), token=token) as client:
            with pytest.raises(Unauthenticated) as raised:
                await client.complete("a")
            assert (raised.value.reason, bool(raised.value.request_id)) == (reason, True)
    async with AsyncClient(target, tls=Tls(ca_file=authority.ca.cert), token=ALICE, timeout=2) as client:
        with pytest.raises(ConnectionFailed):
            await client.complete("a")


def _tls(authority: Authority, pair: Pair) -> Tls:
    return Tls(ca_file=authority.ca.cert, cert_file=pair.cert, key_file=pair.key)
