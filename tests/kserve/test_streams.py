"""ModelStreamInfer: requests share a stream, each has as many responses as it has news, and an end."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from tests.kserve.client import (
    Conversation,
    infer_request,
    inference,
    streamed,
    tensors,
    texts,
    until_not_ready,
)
from tests.server.live import Live, live_server, read_error
from tests.server.scripted_runner import ScriptedRunner

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.rpc.kserve.streaming import MOST_AT_ONCE

CANCELLED = 'cadenza_requests_cancelled_total{cause="client"'


def _is_final(response: oip.ModelStreamInferResponse) -> bool:
    return response.infer_response.parameters["triton_final_response"].bool_param


def _of(responses: Sequence[oip.ModelStreamInferResponse], request_id: str) -> str:
    """The text of one request, whose last response alone says that it is."""
    own = [one for one in responses if one.infer_response.id == request_id]
    assert [_is_final(one) for one in own] == [False] * (len(own) - 1) + [True]
    return "".join(texts(one.infer_response)[0] for one in own)


@pytest.mark.parametrize("raw", [True, False])
async def test_a_request_that_asks_for_a_stream_gets_each_step_before_the_next(
    live: Live, *, raw: bool
) -> None:
    live.runner.hold()
    talk = Conversation(live.channel)
    await talk.send(infer_request("a", raw=raw, stream=True, sampling={"max_tokens": 3}))
    for letter in "bcd":
        live.runner.allow(1)
        response = await talk.receive()
        assert texts(response.infer_response) == [letter]
        assert _is_final(response) is (letter == "d")
    assert await talk.rest() == []


async def test_a_request_that_asks_for_none_gets_one_response(live: Live) -> None:
    (response,) = await streamed(live.channel, infer_request("a", sampling={"max_tokens": 3}))
    assert texts(response.infer_response) == ["abcd"]
    assert _is_final(response)
    assert response.error_message == ""


async def test_requests_of_one_stream_run_side_by_side(live: Live) -> None:
    requests = [
        infer_request(letter, request_id=letter, stream=True, sampling={"max_tokens": 5}) for letter in "abcd"
    ]
    live.runner.hold()
    talk = Conversation(live.channel)
    await talk.send(*requests)
    await live.until("cadenza_num_requests_waiting{", 4)
    live.runner.allow()
    responses = await talk.rest()
    assert [_of(responses, letter) for letter in "abcd"] == ["bcdef", "cdefg", "defgh", "efghi"]
    assert max(live.runner.batch_sizes) == 4


async def test_all_choices_are_in_every_response_of_a_stream(live: Live) -> None:
    request = infer_request(
        "a", stream=True, return_finish_reason=True, return_num_output_tokens=True,
        sampling={"n": 2, "max_tokens": 3, "stop": "e"},
    )  # fmt: skip
    found = [tensors(one.infer_response) for one in await streamed(live.channel, request)]
    assert [b"".join(one["text_output"][choice] for one in found) for choice in (0, 1)] == [b"bcd", b"c"]
    assert found[-1]["finish_reason"] == [b"length", b"stop"]
    assert all(len(one[name]) == 2 for one in found for name in ("text_output", "finish_reason"))
    assert [sum(one["num_output_tokens"][choice] for one in found) for choice in (0, 1)] == [3, 2]


async def test_a_request_that_is_refused_says_why_and_ends_nothing_else(live: Live) -> None:
    bad = infer_request("a", request_id="bad", sampling={"temperature": -1})
    good = infer_request("a", request_id="good", stream=True, sampling={"max_tokens": 3})
    responses = await streamed(live.channel, bad, good)
    (refused,) = [one for one in responses if one.error_message]
    assert (
        refused.error_message
        == "sampling_parameters.temperature is -1; it must be from 0 to 100; 0 is greedy"
    )
    assert (refused.infer_response.id, _is_final(refused)) == ("bad", True)
    said = {name: one.string_param for name, one in refused.infer_response.parameters.items()}
    assert (said["error_code"], said["error_reason"]) == ("INVALID_ARGUMENT", "FIELD_OUT_OF_RANGE")
    assert _of([one for one in responses if one is not refused], "good") == "bcd"
    assert await live.metric('cadenza_requests_rejected_total{reason="FIELD_OUT_OF_RANGE"}') == 1


async def test_every_request_of_a_stream_has_its_line_in_the_log(live: Live) -> None:
    with structlog.testing.capture_logs() as lines:
        await streamed(
            live.channel, infer_request("a", request_id="x"), infer_request("b", request_id="y", model="no")
        )
        await live.until('grpc_server_handled_total{grpc_code="OK",grpc_method="ModelStreamInfer"', 1)
    found = {line["id"]: line for line in lines if line["event"] == "call" and line.get("id")}
    assert (found["x"]["code"], found["x"]["completion_tokens"]) == ("OK", 5)
    assert (found["y"]["code"], found["y"]["reason"]) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_a_client_that_leaves_takes_all_its_requests_along(live: Live) -> None:
    live.runner.hold()
    talk = Conversation(live.channel)
    await talk.send(*(infer_request(letter, stream=True) for letter in "abc"))
    await live.until("cadenza_num_requests_waiting{", 3)
    talk.call.cancel()
    live.runner.allow(1)
    await live.until(CANCELLED, 3)
    live.runner.allow()
    await live.until("cadenza_num_requests_running{", 0)
    await live.still_serves()


async def test_the_deadline_of_a_stream_holds_for_its_requests(live: Live) -> None:
    live.runner.hold()
    talk = Conversation(live.channel, timeout=0.5)
    await talk.send(infer_request())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await talk.receive()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    live.runner.allow()
    await live.until("cadenza_num_requests_running{", 0)
    await live.still_serves()


async def test_a_timeout_ends_one_request_of_a_stream(live: Live) -> None:
    live.runner.hold()
    talk = Conversation(live.channel)
    late = infer_request("a", request_id="late")
    late.parameters["timeout"].int64_param = 50_000
    await talk.send(infer_request("b", request_id="other", sampling={"max_tokens": 3}))
    await live.begun(1)
    await talk.send(late)
    await live.until("cadenza_num_requests_waiting{", 2)
    await asyncio.sleep(0.05)
    live.runner.allow()
    responses = {one.infer_response.id: one for one in await talk.rest()}
    said = responses["late"].infer_response.parameters["error_code"].string_param
    assert said == "DEADLINE_EXCEEDED"
    assert texts(responses["other"].infer_response) == ["bcde"]


async def test_bytes_that_are_no_request_end_the_stream_with_a_status(live: Live) -> None:
    channel: Any = live.channel
    call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([b"\xff"]))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert read_error(raised.value).reason == "MALFORMED_REQUEST"
    await live.still_serves()


async def test_a_stream_has_so_many_requests_at_once_and_no_more(artifact: Path) -> None:
    runner = ScriptedRunner()
    async with live_server(artifact, runner, max_queue_requests=2 * MOST_AT_ONCE) as live:
        runner.hold()
        talk = Conversation(live.channel)
        await talk.send(*(infer_request("a", request_id=str(number)) for number in range(MOST_AT_ONCE + 20)))
        await live.until("cadenza_num_requests_waiting{", MOST_AT_ONCE)
        runner.allow()
        responses = await talk.rest()
    assert {one.infer_response.id for one in responses} == set(map(str, range(MOST_AT_ONCE + 20)))
    assert all(texts(one.infer_response) == ["abcdef"] for one in responses)


async def test_what_streams_have_is_finished_while_the_server_drains(live: Live) -> None:
    live.runner.hold()
    talk = Conversation(live.channel)
    await talk.send(infer_request("a", request_id="x", stream=True, sampling={"max_tokens": 3}))
    await live.begun(1)
    stopping = asyncio.create_task(live.server.stop(drain_seconds=10))
    await until_not_ready(inference(live.channel))
    await talk.send(infer_request("b", request_id="late"))
    refused = await talk.receive()
    assert refused.infer_response.parameters["error_reason"].string_param == "SERVER_DRAINING"
    live.runner.allow()
    assert _of(await talk.rest(), "x") == "bcd"
    assert await stopping
