"""Whatever a client sends as tensors, it gets outputs or a typed error, and the server goes on."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2
from tests.server.live import Live, answered_with, hand_run_server
from tests.tfserving.client import ServingClient
from tests.tfserving.graphs import write_served_artifact

from cadenza.export.signatures import SIGNATURES

REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}
SMALL = st.integers(-2, 3)
SIZES = st.one_of(SMALL, st.sampled_from([300, 2**14 + 1, 2**31, 2**62]))
VALUES: dict[str, Any] = {
    "string_val": st.lists(st.binary(max_size=6), max_size=4),
    "int_val": st.lists(st.integers(-(2**31), 2**31 - 1) | SMALL, max_size=4),
    "int64_val": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    "float_val": st.lists(st.floats(width=32), max_size=4),
}
TYPES = {"string": ("DT_STRING", "string_val"), "int32": ("DT_INT32", "int_val"),
         "int64": ("DT_INT64", "int64_val"), "float32": ("DT_FLOAT", "float_val")}  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn, dtype: str, rank: int) -> dict[str, Any]:
    """Mostly of the right type and rank, mostly small, else anything."""
    data_type, field = TYPES[dtype] if draw(st.integers(0, 9)) else draw(st.sampled_from([*TYPES.values()]))
    rank = rank if draw(st.integers(0, 9)) else draw(st.sampled_from([0, 3, 100]))
    sizes = draw(st.lists(SMALL if draw(st.integers(0, 3)) else SIZES, min_size=rank, max_size=rank))
    proto: dict[str, Any] = {"dtype": data_type, "tensor_shape": {"dim": [{"size": size} for size in sizes]}}
    if draw(st.booleans()):
        proto[field] = draw(VALUES[field])
    elif draw(st.booleans()):
        proto["tensor_content"] = draw(st.binary(max_size=16))
    return proto


@st.composite
def requests(draw: st.DrawFn) -> Any:
    name = draw(st.sampled_from(sorted(SIGNATURES)))
    inputs = {
        alias: draw(tensors(dtype.name, rank)) for alias, (dtype, rank) in SIGNATURES[name].inputs.items()
    }
    request = predict_pb2.PredictRequest(inputs=inputs)
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = name
    return request


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Live]]:
    """A live server that all examples share, on a loop that the test runs by hand."""
    artifact = write_served_artifact(tmp_path_factory.mktemp("hostile") / "tiny" / "7")
    with hand_run_server(artifact) as served:
        yield served


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=requests())
def test_any_tensors_are_answered_or_refused_with_a_typed_error(
    request: Any, served: tuple[asyncio.Runner, Live]
) -> None:
    runner, live = served

    code = runner.run(answered_with(ServingClient(live.channel).prediction.Predict, request))
    assert code is grpc.StatusCode.OK or code in REFUSALS


def test_the_server_serves_on_after_all_of_them(served: tuple[asyncio.Runner, Live]) -> None:
    runner, live = served
    runner.run(live.still_serves())
