"""The port for probes: health alone, in plaintext, beside a port that asks for everything."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.client.certificates import Authority, Pair
from tests.security.secured import ALICE, Installed, bearer, secure_channel, text
from tests.server.live import Live, health_stub, live_server, settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.app import Server
from cadenza.server.errors import StartupError

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def secured(
    tmp_path: Path,
    artifact: Path,
    runner: ScriptedRunner,
    server_pair: Pair,
    authority: Authority,
    token_file: Path,
) -> AsyncIterator[Live]:
    """A server that asks for certificates and tokens, with a port for probes."""
    mutual = Installed(tmp_path / "tls", server_pair, authority.ca.cert)
    async with live_server(artifact, runner, health_port=0, token_file=token_file, **mutual.settings) as live:
        yield live


async def test_a_probe_needs_neither_tls_nor_token(secured: Live) -> None:
    async with _probe(secured.ports.health) as channel:
        for service in ("", "cadenza.v1.CompletionService"):
            answer = await health_stub(channel).Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == SERVING


async def test_the_port_for_probes_serves_nothing_else(
    secured: Live, authority: Authority, client_pair: Pair
) -> None:
    async with secure_channel(secured, authority, client_pair) as channel:
        assert await text(channel, bearer(ALICE)) == "bcd"  # the method is known now, on the other port
    paths = (
        "/cadenza.v1.CompletionService/CreateCompletion",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    )
    async with _probe(secured.ports.health) as channel:
        for path in paths:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(path)(b"", metadata=bearer(ALICE))
            assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_probes_are_answered_while_models_load_and_until_the_end(artifact: Path) -> None:
    server = Server(settings(model=(f"tiny={artifact}",), health_port=0), ScriptedLoader())
    ports = await server.start()
    async with _probe(ports.health) as channel:
        watch = health_stub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        await server.load()
        assert (await watch.read()).status == SERVING
        await server.stop(drain_seconds=5)
        assert (await watch.read()).status == NOT_SERVING


async def test_a_port_that_is_taken_is_told_by_its_flag(secured: Live, artifact: Path) -> None:
    taken = settings(model=(f"tiny={artifact}",), health_port=secured.ports.health)
    server = Server(taken, ScriptedLoader())
    with pytest.raises(StartupError, match="choose another --host or --health-port"):
        await server.start()
    await server.stop(0)


def _probe(port: int | None) -> Any:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")
