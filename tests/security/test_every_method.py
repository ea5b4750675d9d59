"""Denied by default: what may be called without a token, found by reflection rather than from a list."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.security.secured import ALICE, FAST, bearer
from tests.server.live import Live, live_server, read_error
from tests.server.scripted_runner import ScriptedRunner
from tests.tfserving.graphs import write_served_artifact

HEALTH = "grpc.health.v1.Health"
SERVICES = {
    "inference.GRPCInferenceService",
    "cadenza.v1.CompletionService",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "grpc.reflection.v1alpha.ServerReflection",
    HEALTH,
}


@pytest.fixture
async def live(tmp_path: Path, runner: ScriptedRunner, token_file: Path) -> AsyncIterator[Live]:
    artifact = write_served_artifact(tmp_path / "models" / "tiny" / "7")
    async with live_server(artifact, runner, token_file=token_file, **FAST) as one:
        yield one


async def test_without_a_token_every_method_but_healths_is_refused(live: Live) -> None:
    methods = {service: await _methods(live, service) for service in await _services(live)}
    assert set(methods) == SERVICES
    open_to_all = [
        (service, method.name)
        for service, found in methods.items()
        for method in found
        if await _reason(live.channel, service, method) != "TOKEN_MISSING"
    ]
    assert {service for service, _ in open_to_all} == {HEALTH}
    assert sum(map(len, methods.values())) > len(open_to_all) + 10


async def test_with_a_token_the_refusal_of_each_method_is_its_own(live: Live) -> None:
    for service in await _services(live):
        for method in await _methods(live, service):
            reason = await _reason(live.channel, service, method, bearer(ALICE))
            assert reason not in ("TOKEN_MISSING", "TOKEN_INVALID"), method.name


async def test_an_unknown_method_is_named_only_to_who_may_call(live: Live) -> None:
    method = descriptor_pb2.MethodDescriptorProto(name="Nothing")
    assert await _reason(live.channel, "no.Such", method) == "TOKEN_MISSING"
    assert await _reason(live.channel, "no.Such", method, bearer(ALICE)) == "METHOD_NOT_FOUND"
    labels = 'grpc_method="unknown",grpc_service="unknown",grpc_type="unary"'
    assert await live.metric(f"grpc_server_started_total{{{labels}}}") == 2


async def test_health_is_watched_without_a_token(live: Live) -> None:
    channel: Any = live.channel
    watch = channel.unary_stream(f"/{HEALTH}/Watch")
    call = watch(health_pb2.HealthCheckRequest().SerializeToString(), metadata=(("x-request-id", "w-1"),))
    assert health_pb2.HealthCheckResponse.FromString(await call.read()).status == 1
    assert dict(await call.initial_metadata())["x-request-id"] == "w-1"
    call.cancel()
    labels = 'grpc_code="CANCELLED",grpc_method="Watch"'
    await live.until(f"grpc_server_handled_total{{{labels}", 1)


async def _reason(
    channel: Any,
    service: str,
    method: descriptor_pb2.MethodDescriptorProto,
    metadata: tuple[tuple[str, str], ...] = (),
) -> str:
    """The reason of the error that an empty request gets, its code where it has none, or OK."""
    path = f"/{service}/{method.name}"
    try:
        if method.client_streaming:
            call = channel.stream_stream(path)(iter([b""]), metadata=metadata)
            await call.read()
        elif method.server_streaming:
            call = channel.unary_stream(path)(b"", metadata=metadata)
            await call.read()
        else:
            call = channel.unary_unary(path)(b"", metadata=metadata)
            await call
    except grpc.aio.AioRpcError as error:
        if any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ()):
            return read_error(error).reason
        return error.code().name
    call.cancel()
    return "OK"


async def _reflect(live: Live, request: Any) -> Any:
    channel: Any = live.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    async for response in stub.ServerReflectionInfo(iter([request]), metadata=bearer(ALICE)):
        return response
    raise AssertionError("reflection gave nothing")


async def _services(live: Live) -> list[str]:
    response = await _reflect(live, reflection_pb2.ServerReflectionRequest(list_services=""))
    return [one.name for one in response.list_services_response.service]


async def _methods(live: Live, service: str) -> list[descriptor_pb2.MethodDescriptorProto]:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    files = (await _reflect(live, request)).file_descriptor_response.file_descriptor_proto
    for content in files:
        file = descriptor_pb2.FileDescriptorProto.FromString(content)
        for one in file.service:
            if f"{file.package}.{one.name}" == service:
                return list(one.method)
    raise AssertionError(f"reflection does not know {service}")
