"""Versions of models: which one answers, and how one takes the place of another while requests run."""

import asyncio
import math
import shutil
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.server.artifacts import write_artifact
from tests.server.live import Live, health_stub, read_error, rest, stream
from tests.server.models_folder import (
    AVAILABLE,
    END,
    START,
    UNLOADING,
    Folder,
    continued,
    folder_server,
)

from cadenza.server.admission import Arrival
from cadenza.server.engine.request import Request
from cadenza.server.errors import DrainingError, StartupError
from cadenza.server.versions import REMEMBERED_ENDS, VersionBook, VersionState, VersionStatus
from cadenza.v1 import completion_pb2 as pb


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "tiny" / "1")
    return tmp_path


async def _refusal(folder: Folder, model: str) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await folder.complete(model)
    error = read_error(raised.value)
    return error.reason, error.message


async def test_requests_name_a_model_a_version_or_a_label(models: Path) -> None:
    write_artifact(models / "tiny" / "2")
    labels = ("tiny:stable=1", "tiny:next=3")
    async with folder_server(models, pin=("tiny=1,2",), version_label=labels) as folder:
        for model, version in (
            ("", 2),
            ("tiny", 2),
            ("tiny@2", 2),
            ("tiny@1", 1),
            ("@1", 1),
            ("tiny@stable", 1),
        ):
            assert await folder.complete(model) == continued("a", version, 5)
        for model in ("tiny@3", "tiny@next", "tiny@", "tiny@nosuch", "tiny@-1", "tiny@" + "9" * 30):
            reason, message = await _refusal(folder, model)
            assert reason == "VERSION_NOT_FOUND"
            assert "its versions are: 1, 2; its labels: next, stable" in message
        assert (await _refusal(folder, "other@1"))[0] == "MODEL_NOT_FOUND"


async def test_models_list_their_versions_and_answers_name_theirs(models: Path) -> None:
    write_artifact(models / "tiny" / "2")
    async with folder_server(models, pin=("tiny=1,2",), version_label=("tiny:stable=1",)) as folder:
        (model,) = (await folder.stub.ListModels(pb.ListModelsRequest())).models
        assert (model.name, model.version) == ("tiny", 2)
        first, second = model.versions
        assert (first.version, first.state, list(first.labels)) == (1, AVAILABLE, ["stable"])
        assert (second.version, second.state, list(second.labels)) == (2, AVAILABLE, [])
        named = await folder.stub.GetModel(pb.GetModelRequest(model="tiny@1"))
        assert named.model.version == 1
        request = stream("a", max_tokens=3)
        request.model = "tiny@1"
        messages = [message async for message in folder.stub.StreamCompletion(request)]
        assert {(message.model, message.model_version) for message in messages} == {("tiny", 1)}


async def test_new_version_takes_over_at_once_and_the_old_one_finishes_what_it_has(models: Path) -> None:
    async with folder_server(models, max_sequences=4) as folder:
        old = folder.runners["tiny", 1]
        old.hold()
        running = folder.stub.StreamCompletion(stream("a", max_tokens=20))
        old.allow(1)
        first = await running.read()
        assert isinstance(first, pb.StreamCompletionResponse)
        others = [asyncio.ensure_future(folder.complete(tokens=6)) for _ in range(7)]
        await folder.until("cadenza_num_requests_waiting", 7)

        folder.add(2)
        await folder.look()
        assert await folder.states() == {1: UNLOADING, 2: AVAILABLE}
        assert await folder.complete() == continued("a", 2, 5)
        assert not any(other.done() for other in others)
        assert (await _refusal(folder, "tiny@1"))[0] == "VERSION_NOT_FOUND"

        old.allow()
        texts = [message.choices[0].text for message in (first, *await rest(running))]
        assert "".join(texts) == continued("a", 1, 20)
        assert await asyncio.gather(*others) == [continued("a", 1, 6)] * 7
        await folder.until_state(1, END)
        assert old.closed
        assert await folder.states() == {1: END, 2: AVAILABLE}


async def test_metrics_follow_the_versions(models: Path) -> None:
    info = 'cadenza_model_info{family="llama",model="tiny",precision="int8",version='
    async with folder_server(models) as folder:
        old = folder.runners["tiny", 1]
        old.hold()
        running = folder.stub.StreamCompletion(stream("a", max_tokens=9))
        old.allow(1)
        await running.read()
        folder.add(2)
        await folder.look()
        new = folder.runners["tiny", 2]
        new.hold()
        other = folder.stub.StreamCompletion(stream("a", max_tokens=9))
        new.allow(1)
        await other.read()
        assert await folder.metric('cadenza_num_requests_running{model="tiny"}') == 2
        assert await folder.metric(info) == 2
        old.allow()
        await rest(running)
        await folder.until_state(1, END)
        assert await folder.metric('cadenza_num_requests_running{model="tiny"}') == 1
        assert [await folder.metric(info + version) for version in ('"1"', '"2"')] == [0, 1]
        assert await folder.metric('cadenza_model_loads_total{model="tiny",result="loaded"}') == 2
        assert await folder.metric("cadenza_generated_tokens_total") == 10


async def test_memory_of_a_version_is_shown_until_it_has_ended(models: Path) -> None:
    memory = 'cadenza_model_memory_bytes{model="tiny",version='
    async with folder_server(models) as folder:
        old = folder.runners["tiny", 1]
        old.hold()
        running = folder.stub.StreamCompletion(stream("a", max_tokens=9))
        folder.loader.required, folder.loader.free = 3 << 20, 1 << 30
        folder.add(2)
        await folder.look()
        assert await folder.metric(memory + '"2"') == 3 << 20
        folder.loader.required = 5 << 20
        old.allow()
        await rest(running)
        await folder.until_state(1, END)
        folder.add(3)
        await folder.look()
        await folder.until_state(2, END)
        assert await folder.metric(memory) == 5 << 20


async def test_broken_version_is_refused_with_its_reason_and_serving_goes_on(models: Path) -> None:
    failed = 'cadenza_model_loads_total{model="tiny",result="failed"}'
    async with folder_server(models) as folder:
        graph = folder.add(2) / "saved_model.pb"
        graph.write_bytes(b"broken")
        await folder.look()
        (model,) = (await folder.stub.ListModels(pb.ListModelsRequest())).models
        assert [(one.version, one.state) for one in model.versions] == [(1, AVAILABLE), (2, END)]
        assert "saved_model.pb is corrupted" in model.versions[1].error
        assert await folder.complete() == continued("a", 1, 5)
        assert (await folder.get("/readyz"))[0] == 200
        assert await folder.metric(failed) == 1
        graph.write_bytes(b"graph")
        await folder.look()
        assert await folder.complete() == continued("a", 2, 5)
        assert await folder.metric(failed) == 1


async def test_loader_that_raises_anything_leaves_the_old_version_serving(models: Path) -> None:
    async with folder_server(models) as folder:
        folder.loader.fail_with = ZeroDivisionError("a bug of the loader")
        folder.add(2)
        await folder.look()
        (model,) = (await folder.stub.ListModels(pb.ListModelsRequest())).models
        assert model.versions[1].error == "a bug of the loader"
        assert await folder.complete() == continued("a", 1, 5)


async def test_refused_version_is_tried_again_only_when_it_changes(models: Path) -> None:
    failed = 'cadenza_model_loads_total{model="tiny",result="failed"}'
    async with folder_server(models, models_poll_seconds=0.01) as folder:
        graph = folder.add(2) / "saved_model.pb"
        graph.write_bytes(b"broken")
        await folder.until(failed, 1)
        write_artifact(models / "witness" / "1")  # once it is loaded, the folder was looked at again
        await folder.until('cadenza_model_loads_total{model="witness",result="loaded"}', 1)
        assert await folder.metric(failed) == 1
        graph.write_bytes(b"broken differently")
        await folder.until(failed, 2)
        await folder.look()
        assert await folder.metric(failed) == 3
        graph.write_bytes(b"graph")
        await folder.until('cadenza_model_loads_total{model="tiny",result="loaded"}', 2)


async def test_version_that_does_not_fit_is_refused_with_the_figures(models: Path) -> None:
    async with folder_server(models) as folder:
        folder.loader.required, folder.loader.free = 3 << 30, 2 << 30
        folder.add(2)
        await folder.look()
        (model,) = (await folder.stub.ListModels(pb.ListModelsRequest())).models
        assert (
            "version 2 of model tiny needs 3.00 GiB of memory and 2.00 GiB are free"
            in model.versions[1].error
        )
        assert await folder.metric('cadenza_model_loads_total{model="tiny",result="no_memory"}') == 1
        assert await folder.complete() == continued("a", 1, 5)


async def test_version_that_does_not_fit_yet_waits_for_one_that_is_being_unloaded(models: Path) -> None:
    async with folder_server(models) as folder:
        old = folder.runners["tiny", 1]
        old.hold()
        running = folder.stub.StreamCompletion(stream("a", max_tokens=9))
        await asyncio.to_thread(old.wait_for_step, 1)
        folder.add(2)
        await folder.look()
        folder.loader.required, folder.loader.free = 3, 2
        folder.add(3)
        looking = asyncio.ensure_future(folder.look())
        await asyncio.to_thread(folder.loader.wait_until_asked, 3)
        await folder.until_state(3, START)
        assert not looking.done()
        folder.loader.free = 3
        old.allow()
        await looking
        assert len(await rest(running)) > 0
        assert await folder.complete() == continued("a", 3, 5)


async def test_newest_version_that_is_removed_gives_way_to_the_one_before(models: Path) -> None:
    write_artifact(models / "tiny" / "2")
    async with folder_server(models) as folder:
        folder.remove(2)
        await folder.look()
        assert await folder.complete() == continued("a", 1, 5)
        await folder.until_state(2, END)


async def test_version_that_is_wanted_again_while_it_is_unloaded_is_loaded_after_that(models: Path) -> None:
    async with folder_server(models) as folder:
        old = folder.runners["tiny", 1]
        old.hold()
        running = folder.stub.StreamCompletion(stream("a", max_tokens=9))
        await asyncio.to_thread(old.wait_for_step, 1)
        folder.add(2)
        await folder.look()
        folder.remove(2)
        looking = asyncio.ensure_future(folder.look())
        await folder.until_state(1, START)
        assert await folder.complete() == continued("a", 2, 5)
        old.allow()
        await looking
        await rest(running)
        assert folder.runners["tiny", 1] is not old
        assert await folder.complete() == continued("a", 1, 5)
        await folder.until_state(2, END)
        assert await folder.states() == {1: AVAILABLE, 2: END}


async def test_only_version_stays_when_its_folder_is_removed_and_ends_when_its_model_is(models: Path) -> None:
    write_artifact(models / "other" / "1")
    async with folder_server(models) as folder:
        folder.remove(1)
        await folder.look()
        assert await folder.complete("tiny") == continued("a", 1, 5)
        (models / "tiny").rmdir()
        await folder.look()
        assert (await _refusal(folder, "tiny"))[0] == "MODEL_NOT_FOUND"
        assert await folder.complete("") == continued("a", 1, 5)
        async with asyncio.timeout(10):
            while 'model="tiny"' in (await folder.get("/metrics"))[1]:  # noqa: ASYNC110 only it can be asked
                await asyncio.sleep(0)
        assert 'model="other"' in (await folder.get("/metrics"))[1]


async def test_everything_goes_on_while_the_folder_of_models_is_away(models: Path) -> None:
    async with folder_server(models) as folder:
        away = shutil.move(models, models.with_name("away"))
        await folder.look()
        assert await folder.complete() == continued("a", 1, 5)
        shutil.move(away, models)
        folder.add(2)
        await folder.look()
        assert await folder.complete() == continued("a", 2, 5)


async def test_models_that_appear_are_served_and_broken_ones_do_not_harm(models: Path) -> None:
    async with folder_server(models) as folder:
        (folder.add(1, "broken") / "saved_model.pb").write_bytes(b"broken")
        folder.add(5, "other")
        await folder.look()
        assert await folder.complete("other") == continued("a", 5, 5)
        assert (await _refusal(folder, "broken"))[0] == "MODEL_NOT_FOUND"
        assert (await folder.get("/readyz"))[0] == 200


async def test_folder_is_polled(models: Path) -> None:
    async with folder_server(models, models_poll_seconds=0.01) as folder:
        folder.add(2)
        async with asyncio.timeout(10):
            while await folder.complete() != continued("a", 2, 5):
                pass


async def test_server_on_an_empty_folder_waits_for_its_first_model(tmp_path: Path) -> None:
    async with folder_server(tmp_path, load=False) as folder:
        loading = asyncio.ensure_future(folder.server.load())
        assert (await _refusal(folder, ""))[0] == "MODEL_NOT_FOUND"
        assert (await folder.get("/readyz"))[0] == 503
        folder.add(1)
        await folder.look()
        await loading
        assert (await folder.get("/readyz"))[0] == 200
        assert await folder.complete() == continued("a", 1, 5)


async def test_start_takes_an_older_version_where_the_newest_is_broken(models: Path) -> None:
    (write_artifact(models / "tiny" / "2") / "saved_model.pb").write_bytes(b"broken")
    async with folder_server(models) as folder:
        assert await folder.complete() == continued("a", 1, 5)
        assert await folder.states() == {1: AVAILABLE, 2: END}


async def test_health_turns_with_the_last_model(models: Path) -> None:
    async with folder_server(models) as folder:
        changes = health_stub(folder.channel).Watch(health_pb2.HealthCheckRequest())
        await changes.read()
        folder.remove(1)
        (models / "tiny").rmdir()
        await folder.look()
        assert (await folder.get("/readyz"))[0] == 503
        assert (await changes.read()).status == 2
        folder.add(2)
        await folder.look()
        assert (await changes.read()).status == 1
        changes.cancel()


async def test_start_fails_where_no_version_of_a_model_can_be_loaded(models: Path) -> None:
    for version in (1, 2):
        (write_artifact(models / "bad" / str(version)) / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(StartupError, match=r"bad/1/saved_model\.pb is corrupted.*bad/2/saved_model\.pb is"):
        async with folder_server(models):
            pass


async def test_start_on_a_folder_that_is_empty_and_not_looked_at_again_fails(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no version of a model is there"):
        async with folder_server(tmp_path, models_poll_seconds=0):
            pass


async def test_request_that_entered_before_a_drain_is_finished(live: Live) -> None:
    (dispatcher,) = (model.dispatcher for model in live.server._models.loaded())
    arrival = Arrival("r", time.monotonic(), math.inf, size=1)
    with dispatcher.enter(arrival) as place:
        draining = asyncio.ensure_future(dispatcher.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(DrainingError), dispatcher.enter(arrival):
            pass
        stream = dispatcher.submit(Request("r", (ord("a"),), 3, arrival.time), place)
    with stream:
        assert (await stream.result()).choices[0].text == "bcd"
    assert await draining


def test_ends_are_remembered_up_to_a_bound() -> None:
    book = VersionBook()
    book.write(VersionStatus("m", 0, VersionState.AVAILABLE))
    for version in range(1, REMEMBERED_ENDS + 11):
        book.write(VersionStatus("m", version, VersionState.END))
    assert [status.version for status in book.statuses("m")] == [0, *range(11, REMEMBERED_ENDS + 11)]
