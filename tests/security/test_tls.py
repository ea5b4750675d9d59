"""TLS and mutual TLS as clients meet them, and certificates that change under a running server."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tests.client.certificates import Authority, Pair
from tests.security.secured import Installed, clients_logged, reloads, secure_channel, status, text
from tests.server.live import Live, live_server, rest, settings, stream
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.app import Server
from cadenza.server.errors import CredentialError
from cadenza.v1 import completion_pb2_grpc as pb_grpc

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def installed(tmp_path: Path, server_pair: Pair) -> Installed:
    return Installed(tmp_path / "tls", server_pair)


@pytest.fixture
def mutual(tmp_path: Path, server_pair: Pair, authority: Authority) -> Installed:
    return Installed(tmp_path / "mtls", server_pair, authority.ca.cert)


async def test_only_who_speaks_tls_and_trusts_the_server_gets_through(
    artifact: Path,
    runner: ScriptedRunner,
    installed: Installed,
    authority: Authority,
    other_authority: Authority,
) -> None:
    async with live_server(artifact, runner, **installed.settings) as live:
        async with secure_channel(live, authority) as channel:
            assert await text(channel) == "bcd"
        async with secure_channel(live, other_authority) as stranger:
            assert await status(stranger) == UNAVAILABLE
        assert await status(live.channel) == UNAVAILABLE  # plaintext


async def test_with_mutual_tls_a_client_needs_a_certificate_of_the_authority(
    artifact: Path,
    runner: ScriptedRunner,
    mutual: Installed,
    authority: Authority,
    other_authority: Authority,
    client_pair: Pair,
) -> None:
    async with live_server(artifact, runner, **mutual.settings) as live:
        async with secure_channel(live, authority, client_pair) as channel:
            assert await text(channel) == "bcd"
        async with secure_channel(live, authority) as channel:
            assert await status(channel) == UNAVAILABLE
        async with secure_channel(live, authority, other_authority.issue("client.example")) as channel:
            assert await status(channel) == UNAVAILABLE
        async with secure_channel(live, authority, authority.issue("late.example", expired=True)) as channel:
            assert await status(channel) == UNAVAILABLE


async def test_the_certificates_name_is_the_client_whatever_the_metadata_claim(
    artifact: Path, runner: ScriptedRunner, mutual: Installed, authority: Authority, client_pair: Pair
) -> None:
    async with (
        live_server(artifact, runner, **mutual.settings) as live,
        secure_channel(live, authority, client_pair) as channel,
    ):
        with structlog.testing.capture_logs() as lines:
            await text(channel, (("cadenza-client-id", "somebody-else"),))
            assert await clients_logged(lines, 1) == ["client.example"]


async def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    artifact: Path,
    runner: ScriptedRunner,
    installed: Installed,
    authority: Authority,
    other_authority: Authority,
) -> None:
    async with (
        live_server(artifact, runner, **installed.settings) as live,
        secure_channel(live, authority) as before,
    ):
        running = await _begin_stream(live, before)
        installed.put(other_authority.issue("localhost"))
        await live.until(reloads("certificate", "loaded"), 1)
        async with secure_channel(live, authority) as channel:
            assert await status(channel) == UNAVAILABLE
        live.runner.allow()
        async with secure_channel(live, other_authority) as channel:
            assert await text(channel) == "bcd"
        assert "".join(part.choices[0].text for part in await rest(running)) == "cd"


async def test_the_authority_of_clients_can_be_changed(
    artifact: Path,
    runner: ScriptedRunner,
    mutual: Installed,
    authority: Authority,
    other_authority: Authority,
    client_pair: Pair,
) -> None:
    async with live_server(artifact, runner, **mutual.settings) as live:
        mutual.client_ca.write_bytes(other_authority.ca.cert.read_bytes())
        await live.until(reloads("certificate", "loaded"), 1)
        async with secure_channel(live, authority, client_pair) as channel:
            assert await status(channel) == UNAVAILABLE
        async with secure_channel(live, authority, other_authority.issue("client.example")) as channel:
            assert await text(channel) == "bcd"


async def test_a_broken_certificate_keeps_the_old_one_and_is_told_once(
    artifact: Path, runner: ScriptedRunner, installed: Installed, authority: Authority, server_pair: Pair
) -> None:
    async with live_server(artifact, runner, **installed.settings) as live:
        with structlog.testing.capture_logs() as lines:
            half = server_pair.cert.read_text()[:200]
            for broken in (half, "", authority.ca.cert.read_text()):
                failed = await live.metric(reloads("certificate", "failed"))
                installed.certificate.write_text(broken)
                await live.until(reloads("certificate", "failed"), failed + 1)
                async with secure_channel(live, authority) as channel:
                    assert await text(channel) == "bcd"
            installed.certificate.unlink()
            await live.until(reloads("certificate", "failed"), 4)
            installed.put(authority.issue("localhost"))
            await live.until(reloads("certificate", "loaded"), 1)
            assert await live.metric(reloads("certificate", "failed")) == 4
    told = [line for line in lines if line["event"] == "credentials_not_reloaded"]
    assert len(told) == 4
    assert all(str(installed.certificate) in line["error"] for line in told)


async def test_the_expiry_in_metrics_is_that_of_the_certificate_in_use(
    artifact: Path, runner: ScriptedRunner, mutual: Installed, authority: Authority, server_pair: Pair
) -> None:
    async with live_server(artifact, runner, **mutual.settings) as live:
        for which, file in (("server", server_pair.cert), ("client_ca", authority.ca.cert)):
            expiry = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()
            series = f'cadenza_tls_certificate_expiry_timestamp_seconds{{certificate="{which}"}}'
            assert await live.metric(series) == expiry


@pytest.mark.parametrize("case", ["missing", "no_pem", "other_key", "expired", "password", "no_ca"])
async def test_files_that_cannot_serve_are_refused_at_the_start(
    case: str, artifact: Path, mutual: Installed, authority: Authority, server_pair: Pair
) -> None:
    message = _break(case, mutual, authority, server_pair)
    with pytest.raises(CredentialError, match=message):
        Server(settings(model=(f"tiny={artifact}",), **mutual.settings), ScriptedLoader())


def _break(case: str, installed: Installed, authority: Authority, pair: Pair) -> str:
    """Does the damage and gives what the error must say."""
    if case == "missing":
        installed.key.unlink()
        return "cannot read .*tls.key: No such file"
    if case == "no_pem":
        installed.certificate.write_bytes(b"\x30\x82\x01")
        return "tls.crt holds no certificate in PEM form"
    if case == "other_key":
        installed.key.write_bytes(authority.ca.key.read_bytes())
        return "is not that of the certificate"
    if case == "expired":
        installed.put(authority.issue("localhost", expired=True))
        return "is valid from .* and now is .*; have it renewed"
    if case == "password":
        key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(b"x")
        form = serialization.PrivateFormat.PKCS8
        installed.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, locked))
        return "has a password"
    installed.client_ca.write_text("")
    return "ca.crt holds no certificate"


async def _begin_stream(live: Live, channel: grpc.aio.Channel) -> Any:
    """A stream of "bcd" that has given its first token."""
    live.runner.hold()
    stub: Any = pb_grpc.CompletionServiceStub(channel)
    call = stub.StreamCompletion(stream("a", max_tokens=3))
    live.runner.allow(1)
    async with asyncio.timeout(10):
        await call.read()
    return call
