"""Beside Predict: signature definitions, states of versions, and which services there are."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.server.live import Live, health_stub, live_server, settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner
from tests.tfserving.client import ServingClient, predict_request
from tests.tfserving.graphs import saved_model

from cadenza.server.app import Server
from cadenza.server.errors import StartupError

SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


async def test_metadata_are_the_saved_models_own_signatures(client: ServingClient) -> None:
    (graph,) = saved_model().meta_graphs
    assert await client.signatures() == graph.signature_def


async def test_the_status_of_a_loaded_version_is_available(client: ServingClient) -> None:
    assert await client.states() == {7: "AVAILABLE"}


async def test_reflection_and_health_know_the_services(live: Live) -> None:
    for service in SERVICES:
        answer = await health_stub(live.channel).Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert set(SERVICES) <= set(await _reflected(live.ports.grpc))


async def test_turned_off_there_is_no_such_service(artifact: Path, runner: ScriptedRunner) -> None:
    async with live_server(artifact, runner, tensorflow_serving="off") as live:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ServingClient(live.channel).prediction.Predict(predict_request("", {"prompt": ["a"]}))
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert set(await _reflected(live.ports.grpc)).isdisjoint(SERVICES)
        await live.still_serves()


@pytest.fixture
def without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "tensorflow_serving" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.usefixtures("without_the_package")
async def test_asked_for_and_not_installed_the_server_does_not_start_and_says_what_to_install(
    artifact: Path, runner: ScriptedRunner
) -> None:
    chosen = settings(model=(f"tiny={artifact}",), tensorflow_serving="on")
    server = Server(chosen, ScriptedLoader(lambda _: runner))
    with pytest.raises(StartupError, match=r"tensorflow_serving: pip install 'cadenza\[server,tensorflow\]'"):
        await server.start()
    await server.stop(0)


@pytest.mark.usefixtures("without_the_package")
async def test_not_installed_and_not_asked_for_the_server_serves_without(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with live_server(artifact, runner) as live:
        assert set(await _reflected(live.ports.grpc)).isdisjoint(SERVICES)
        await live.still_serves()


async def _reflected(port: int) -> list[str]:
    def ask() -> list[str]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            return list(ProtoReflectionDescriptorDatabase(channel).get_services())

    return await asyncio.to_thread(ask)
