"""Beside inference: whether server and models are live and ready, and what they are."""

import asyncio
import importlib.metadata
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.kserve.client import inference, until_not_ready
from tests.server.live import Live, health_stub, live_server, read_error, settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.app import Server

SERVICE = "inference.GRPCInferenceService"


async def _model_ready(stub: Any, name: str, version: str = "") -> bool:
    response = await stub.ModelReady(oip.ModelReadyRequest(name=name, version=version))
    return bool(response.ready)


async def test_a_server_that_serves_is_live_and_ready_and_so_is_its_model(stub: Any) -> None:
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
    assert await _model_ready(stub, "tiny")
    assert await _model_ready(stub, "tiny", "7")


@pytest.mark.parametrize(("name", "version"), [("no", ""), ("tiny", "8"), ("tiny", "x")])
async def test_what_is_not_served_is_not_ready(stub: Any, name: str, version: str) -> None:
    assert not await _model_ready(stub, name, version)


async def test_a_server_is_live_before_it_is_ready(artifact: Path, runner: ScriptedRunner) -> None:
    loader = ScriptedLoader(lambda _: runner)
    loader.hold()
    server = Server(settings(model=(f"tiny={artifact}",)), loader)
    ports = await server.start()
    loading = asyncio.create_task(server.load())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        stub = inference(channel)
        assert (await stub.ServerLive(oip.ServerLiveRequest())).live
        assert not (await stub.ServerReady(oip.ServerReadyRequest())).ready
        assert not await _model_ready(stub, "tiny")
        loader.allow()
        await loading
        assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
        assert await _model_ready(stub, "tiny")
    await server.stop(5)


async def test_a_server_that_drains_is_live_and_not_ready(live: Live, stub: Any) -> None:
    live.runner.hold()
    asking = asyncio.create_task(live.text("a"))
    await live.begun(1)
    stopping = asyncio.create_task(live.server.stop(drain_seconds=10))
    await until_not_ready(stub)
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert not await _model_ready(stub, "tiny")
    live.runner.allow()
    assert await asking == "bcdef"
    assert await stopping


async def test_the_server_says_its_name_version_and_extensions(stub: Any) -> None:
    found = await stub.ServerMetadata(oip.ServerMetadataRequest())
    assert (found.name, found.version) == ("cadenza", importlib.metadata.version("cadenza"))
    assert list(found.extensions) == ["parameters"]


async def test_a_models_metadata_name_its_versions_and_tensors(stub: Any) -> None:
    found = await stub.ModelMetadata(oip.ModelMetadataRequest(name="tiny"))
    assert (found.name, list(found.versions), found.platform) == ("tiny", ["7"], "tensorflow_savedmodel")
    inputs = {one.name: (one.datatype, list(one.shape)) for one in found.inputs}
    outputs = {one.name: (one.datatype, list(one.shape)) for one in found.outputs}
    assert inputs["text_input"] == ("BYTES", [1])
    assert inputs["stream"] == ("BOOL", [1])
    assert inputs["sampling_parameters"] == ("BYTES", [1])
    assert outputs["text_output"] == ("BYTES", [-1])
    assert {name.removeprefix("return_") for name in inputs if name.startswith("return_")} == {
        name for name in outputs if name != "text_output"
    }


async def test_metadata_of_a_model_that_is_not_served_are_not_found(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ModelMetadata(oip.ModelMetadataRequest(name="no"))
    assert read_error(raised.value).reason == "MODEL_NOT_FOUND"


async def test_health_knows_the_service(live: Live) -> None:
    answer = await health_stub(live.channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_without_tensorflow_serving_it_is_answered_all_the_same(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with live_server(artifact, runner, tensorflow_serving="off") as live:
        assert await _model_ready(inference(live.channel), "tiny")
