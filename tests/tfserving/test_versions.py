"""Versions come and go: TensorFlow Serving's clients see the states, and get one version's answer each."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import get_model_status_pb2
from tests.server.models_folder import Folder, continued, folder_server
from tests.tfserving.client import ServingClient, predict_request
from tests.tfserving.graphs import write_served_artifact
from tests.tfserving.test_refusals import refused

from cadenza.server.errors import StartupError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_served_artifact(tmp_path / "tiny" / "1")
    return tmp_path


@pytest.fixture
async def folder(models: Path) -> AsyncIterator[Folder]:
    async with folder_server(models, max_sequences=4) as one:
        yield one


async def until_states(client: ServingClient, states: dict[int, str]) -> None:
    """Asks until the versions stand there; the server works between the questions."""
    async with asyncio.timeout(10):
        while await client.states() != states:  # noqa: ASYNC110 only the server can be asked
            await asyncio.sleep(0)


async def test_status_walks_through_loading_available_unloading_and_end(folder: Folder) -> None:
    client, old = ServingClient(folder.channel), folder.runners["tiny", 1]
    old.hold()
    request = predict_request("serving_default", {"prompt": ["a", "b", "c", "d", "e", "f"]})
    running = client.prediction.Predict(request)
    await folder.until("cadenza_num_requests_waiting", 6)

    folder.loader.hold()
    write_served_artifact(folder.models / "tiny" / "2")
    look = asyncio.ensure_future(folder.look())
    await until_states(client, {1: "AVAILABLE", 2: "LOADING"})
    folder.loader.allow()
    await look
    assert await client.states() == {1: "UNLOADING", 2: "AVAILABLE"}
    response = await client.prediction.Predict(predict_request("", {"prompt": ["a"]}))
    assert response.model_spec.version.value == 2
    assert response.outputs["completion"].string_val == [continued("a", 2, 5).encode()]

    old.allow()
    response = await running
    assert response.model_spec.version.value == 1
    assert response.outputs["completion"].string_val == [continued(one, 1, 5).encode() for one in "abcdef"]
    await until_states(client, {1: "END", 2: "AVAILABLE"})


async def test_a_version_that_cannot_be_loaded_ends_with_the_reason(folder: Folder) -> None:
    client = ServingClient(folder.channel)
    folder.loader.fail_with = StartupError("the scripted failure")
    write_served_artifact(folder.models / "tiny" / "2")
    await folder.look()
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "tiny"
    request.model_spec.version.value = 2
    (status,) = (await client.models.GetModelStatus(request)).model_version_status
    assert (status.version, status.state) == (2, get_model_status_pb2.ModelVersionStatus.END)
    assert status.status.error_code != 0
    assert "the scripted failure" in status.status.error_message
    assert (await client.predict("serving_default", {"prompt": ["a"]}))["completion"] == [b"bcdef"]


async def test_before_the_first_version_is_loaded_it_is_not_found(models: Path) -> None:
    async with folder_server(models, load=False) as folder:
        client = ServingClient(folder.channel)
        assert await client.states() == {1: "START"}
        for version in (None, 1):
            request = predict_request("", {"prompt": ["a"]})
            if version is not None:
                request.model_spec.version.value = version
            code, said, reason = await refused(client.prediction.Predict(request))
            assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_LOADING")
            assert said.startswith("Servable not found for request:")


async def test_pinned_versions_are_asked_for_by_number_and_listed_newest_first(models: Path) -> None:
    write_served_artifact(models / "tiny" / "2")
    async with folder_server(models, pin=("tiny=1,2",)) as folder:
        client = ServingClient(folder.channel)
        assert list((await client.states()).items()) == [(2, "AVAILABLE"), (1, "AVAILABLE")]
        for version in (1, 2):
            request = predict_request("", {"prompt": ["a"]})
            request.model_spec.version.value = version
            response = await client.prediction.Predict(request)
            assert response.model_spec.version.value == version
            assert response.outputs["completion"].string_val == [continued("a", version, 5).encode()]
