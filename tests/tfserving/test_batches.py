"""Rows of a batch are requests of the engine: batched, bounded, cancelled and counted like all others."""

import asyncio
from pathlib import Path

import grpc
import pytest
from tests.server.live import Live, live_server
from tests.server.scripted_runner import ScriptedRunner
from tests.tfserving.client import ServingClient, predict_request, sampling
from tests.tfserving.test_refusals import refused


async def test_rows_run_in_one_engine_with_other_calls(client: ServingClient, live: Live) -> None:
    live.runner.hold()
    rows = asyncio.create_task(client.predict("serving_default", {"prompt": ["a", "b", "c"]}))
    await live.begun(1)
    other = asyncio.create_task(live.text("h", max_tokens=5))
    await live.until("cadenza_num_requests_waiting", 4)
    live.runner.allow()
    assert (await rows)["completion"].tolist() == [b"bcdef", b"cdefg", b"defgh"]
    assert await other == "ijklm"
    assert max(live.runner.batch_sizes) == 4


async def test_more_rows_than_run_at_once_wait_in_the_queue(client: ServingClient, live: Live) -> None:
    found = await client.predict("serving_default", {"prompt": ["a"] * 20})
    assert found["completion"].tolist() == [b"bcdef"] * 20
    assert max(live.runner.batch_sizes) == 4
    assert await live.metric("cadenza_requests_finished_total") == 20


async def test_a_row_that_is_refused_cancels_the_others(client: ServingClient, live: Live) -> None:
    live.runner.hold()
    inputs = {"prompt": ["a", "b", "c"], **sampling(3, top_p=[1, 1, 2])}
    _, said, reason = await refused(client.prediction.Predict(predict_request("complete", inputs)))
    assert reason == "FIELD_OUT_OF_RANGE"
    assert said.startswith("inputs[top_p][2] is 2; it must be above 0 to 1")
    live.runner.allow()
    await live.until("cadenza_num_requests_running", 0)
    await live.until("cadenza_num_requests_waiting", 0)
    await live.still_serves()
    assert await live.metric("cadenza_requests_finished_total") == 1
    assert await live.metric('cadenza_requests_cancelled_total{cause="client"') == 2


async def test_a_row_that_fails_ends_the_call_at_once(artifact: Path) -> None:
    runner = ScriptedRunner({ord("q"): -2})
    async with live_server(artifact, runner) as live:
        request = predict_request("serving_default", {"prompt": ["a", "q"]})
        code, _, reason = await refused(ServingClient(live.channel).prediction.Predict(request))
        assert (code, reason) == (grpc.StatusCode.INTERNAL, "LOGITS_NOT_FINITE")
        await live.until("cadenza_num_requests_running", 0)
        await live.still_serves()


async def test_a_client_that_leaves_takes_its_rows_along(client: ServingClient, live: Live) -> None:
    live.runner.hold()
    call = client.prediction.Predict(predict_request("serving_default", {"prompt": ["a", "b"]}))
    await live.until("cadenza_num_requests_waiting", 2)
    call.cancel()
    live.runner.allow(1)
    await live.until('cadenza_requests_cancelled_total{cause="client"', 2)
    live.runner.allow()
    await live.still_serves()


async def test_a_deadline_holds_for_every_row(client: ServingClient, live: Live) -> None:
    live.runner.hold()
    request = predict_request("serving_default", {"prompt": ["a", "b"]})
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.prediction.Predict(request, timeout=0.05)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    live.runner.allow()
    await live.until("cadenza_num_requests_running", 0)
    await live.still_serves()
    assert await live.metric("cadenza_requests_finished_total") == 1


async def test_a_batch_that_the_queue_cannot_hold_is_refused_whole(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with live_server(artifact, runner, max_queue_requests=3) as live:
        client = ServingClient(live.channel)
        request = predict_request("serving_default", {"prompt": ["a"] * 4})
        code, said, reason = await refused(client.prediction.Predict(request))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert said.endswith("; this batch needs 4 places")
        assert runner.begun == 0
        found = await client.predict("serving_default", {"prompt": ["a"] * 3})
        assert found["completion"].tolist() == [b"bcdef"] * 3


async def test_calls_are_counted_by_service_and_method(client: ServingClient, live: Live) -> None:
    await client.predict("serving_default", {"prompt": ["a", "b"]})
    await client.signatures()
    await client.states()
    service = "tensorflow.serving"
    for method, name in (
        ("Predict", "PredictionService"),
        ("GetModelMetadata", "PredictionService"),
        ("GetModelStatus", "ModelService"),
    ):
        labels = f'grpc_code="OK",grpc_method="{method}",grpc_service="{service}.{name}",grpc_type="unary"'
        assert await live.metric(f"grpc_server_handled_total{{{labels}}}") == 1
    assert await live.metric("cadenza_requests_finished_total") == 2
