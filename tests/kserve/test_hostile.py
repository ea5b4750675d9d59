"""Any request gets an answer or a typed error; clients that leave or do not read harm nobody."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kserve.client import Conversation, infer_request, inference, own_channel, tensors
from tests.server.artifacts import write_artifact
from tests.server.live import Live, answered_with, hand_run_server

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.rpc.kserve.parameters import _FIELDS
from cadenza.server.rpc.kserve.signature import INPUTS, OUTPUTS

REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
PARAMETERS = [*_FIELDS, "echo", "nosuch", "timeout", "priority"]
NAMES = st.sampled_from([spec.name for spec in (*INPUTS, *OUTPUTS)] + ["nosuch"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
SAMPLING = st.dictionaries(st.sampled_from(PARAMETERS), JSON, max_size=3).map(
    lambda one: json.dumps(one).encode()
)
CONTENTS: Any = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=2),
        "bytes_contents": st.lists(st.binary(max_size=4) | SAMPLING, max_size=2),
        "int_contents": st.lists(st.integers(-3, 3), max_size=2),
    },
)
RAW = st.binary(max_size=6) | (st.binary(max_size=4) | SAMPLING).map(
    lambda one: len(one).to_bytes(4, "little") + one
)


@st.composite
def requests(draw: st.DrawFn) -> oip.ModelInferRequest:
    """Mostly with the tensors that are wanted, else with anything."""
    request = (
        infer_request("ab", sampling=draw(SAMPLING)) if draw(st.integers(0, 3)) else oip.ModelInferRequest()
    )
    is_raw = bool(request.inputs) or draw(st.booleans())
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(st.lists(st.sampled_from([-1, 0, 1, 1, 1, 2, 2**62]), max_size=2))
        datatype = draw(st.sampled_from(["BYTES", "BOOL", "FP32", ""]))
        contents = None if draw(st.booleans()) else draw(CONTENTS)
        request.inputs.add(name=draw(NAMES), datatype=datatype, shape=shape, contents=contents)
        if is_raw and draw(st.integers(0, 9)):
            request.raw_input_contents.append(draw(RAW))
    for name in draw(st.lists(NAMES, max_size=1)):
        request.outputs.add(name=name)
    for name in draw(st.lists(st.sampled_from(PARAMETERS), max_size=1)):
        kind, value = draw(
            st.sampled_from([("int64_param", -1), ("string_param", "x"), ("bool_param", True)])
        )
        setattr(request.parameters[name], kind, value)
    return request


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Live]]:
    """A live server that all examples share, on a loop that the test runs by hand."""
    artifact = write_artifact(tmp_path_factory.mktemp("hostile") / "tiny" / "7")
    with hand_run_server(artifact) as served:
        yield served


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=requests())
def test_any_request_is_answered_or_refused_with_a_typed_error(
    request: oip.ModelInferRequest, served: tuple[asyncio.Runner, Live]
) -> None:
    runner, live = served

    code = runner.run(answered_with(inference(live.channel).ModelInfer, request))
    assert code is grpc.StatusCode.OK or code in REFUSALS


def test_the_server_serves_on_after_all_of_them(served: tuple[asyncio.Runner, Live]) -> None:
    runner, live = served
    runner.run(live.still_serves())


async def test_hundreds_of_streams_that_leave_at_random_leave_nothing_running(live: Live) -> None:
    chance = random.Random(9)

    async def one() -> None:
        talk = Conversation(live.channel)
        sampling = {"max_tokens": 100, "ignore_eos": True}
        for _ in range(chance.randrange(4)):
            await talk.send(infer_request(stream=chance.random() < 0.5, sampling=sampling))
        if chance.random() < 0.3:
            await talk.call.done_writing()
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        talk.call.cancel()

    for _ in range(15):
        await asyncio.gather(*(one() for _ in range(20)))
    await live.until("cadenza_num_requests_running", 0)
    await live.until("cadenza_num_requests_waiting{", 0)
    assert not [stream for model in live.server._models.loaded() for stream in model.dispatcher._streams]
    await live.still_serves()


REQUESTS, TOKENS = 6, 25
"""Of a stream that is not read."""


async def _unread(live: Live, channel: grpc.aio.Channel) -> Conversation:
    """A stream of which the engine has finished everything, and the client has read nothing."""
    sampling = {"n": 4, "max_tokens": TOKENS, "ignore_eos": True, "logprobs": 20}
    flags: dict[str, Any] = {"stream": True, "return_logprobs": True, "return_num_output_tokens": True}
    talk = Conversation(channel)
    for index in range(REQUESTS):
        await talk.send(infer_request("a", request_id=str(index), sampling=sampling, **flags))
    assert await live.text("a", max_tokens=3, priority=9) == "bcd"
    await live.until("cadenza_requests_finished_total", REQUESTS + 1)
    return talk


async def test_a_reader_that_takes_nothing_holds_back_nobody_and_misses_nothing(live: Live) -> None:
    """What is new behind the responses on their way is merged."""
    async with own_channel(live) as channel:
        responses = await (await _unread(live, channel)).rest()
    for index in range(REQUESTS):
        own = [tensors(one.infer_response) for one in responses if one.infer_response.id == str(index)]
        tokens = [sum(counts) for counts in zip(*(one["num_output_tokens"] for one in own), strict=True)]
        assert tokens == [TOKENS] * 4
        assert len(own) < TOKENS


async def test_a_reader_that_leaves_without_having_read_is_no_error(live: Live) -> None:
    async with own_channel(live) as channel:
        talk = await _unread(live, channel)
        talk.call.cancel()
        await live.until('grpc_server_handled_total{grpc_code="CANCELLED",grpc_method="ModelStreamInfer"', 1)
    assert await live.metric("cadenza_requests_rejected_total") == 0
    await live.still_serves()
