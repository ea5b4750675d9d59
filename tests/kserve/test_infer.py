"""ModelInfer: one request, one response, by the names of Triton's vLLM backend."""

import json
from typing import Any

import pytest
from tests.kserve.client import infer_request, tensors, texts
from tests.server.live import Live
from tests.server.scripted_runner import ScriptedRunner

from cadenza.kserve import inference_pb2 as oip


@pytest.mark.parametrize("raw", [True, False])
async def test_an_answer_has_the_form_of_its_request(stub: Any, *, raw: bool) -> None:
    request = infer_request("a", request_id="mine", raw=raw, sampling={"max_tokens": 3})
    response = await stub.ModelInfer(request)
    assert (response.model_name, response.model_version, response.id) == ("tiny", "7", "mine")
    assert tensors(response) == {"text_output": [b"abcd"]}
    assert bool(response.raw_output_contents) is raw
    assert not response.parameters


@pytest.mark.parametrize(("exclude", "answer"), [(None, "abcd"), (False, "abcd"), (True, "bcd")])
async def test_the_prompt_begins_the_answer_unless_it_is_excluded(
    stub: Any, exclude: bool | None, answer: str
) -> None:
    flags: dict[str, Any] = {} if exclude is None else {"exclude_input_in_output": exclude}
    assert texts(await stub.ModelInfer(infer_request(sampling={"max_tokens": 3}, **flags))) == [answer]


async def test_choices_are_the_elements_of_the_outputs(stub: Any) -> None:
    request = infer_request(
        "a", exclude_input_in_output=True, return_finish_reason=True, return_num_output_tokens=True,
        sampling={"n": 3, "max_tokens": 4, "stop": "j"},
    )  # fmt: skip
    assert tensors(await stub.ModelInfer(request)) == {
        "text_output": [b"bcde", b"cegi", b"dg"],
        "finish_reason": [b"length", b"length", b"stop"],
        "num_output_tokens": [4, 4, 3],
    }


async def test_what_inputs_ask_for_comes_beside_the_text(stub: Any) -> None:
    names = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
    asked: dict[str, Any] = {f"return_{name}": True for name in names}
    request = infer_request("xx", sampling={"max_tokens": 9, "logprobs": 1}, **asked)
    found = tensors(await stub.ModelInfer(request))
    assert found["text_output"] == [b"xxyz"]
    assert found["finish_reason"] == [b"stop"]
    assert (found["num_input_tokens"], found["num_output_tokens"]) == ([2], [3])
    assert found["cumulative_logprob"] == [-(121.0 + 122 + 257)]
    first, *_ = json.loads(found["logprobs"][0])
    assert first["121"] == {"logprob": -121.0, "rank": None, "decoded_token": "y"}
    assert (first["0"]["logprob"], first["0"]["rank"]) == (0.0, 1)


async def test_log_probabilities_that_nobody_asked_for_are_null(stub: Any) -> None:
    found = tensors(await stub.ModelInfer(infer_request(return_logprobs=True)))
    assert found["logprobs"] == [b"null"]


async def test_only_listed_outputs_come_in_the_order_of_the_metadata(stub: Any) -> None:
    request = infer_request(outputs=("num_input_tokens", "finish_reason"), return_logprobs=True)
    assert list(tensors(await stub.ModelInfer(request))) == ["finish_reason", "num_input_tokens"]


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        ({"max_tokens": "3", "temperature": "0.0", "top_p": "0.95"}, "bcd"),
        ({"max_tokens": 3, "top_k": -1, "seed": -1, "min_p": None}, "bcd"),
        ({"max_tokens": 20, "stop": ["zz", "ef"]}, "bcd"),
        ({"max_tokens": 20, "stop_token_ids": [ord("d")], "logit_bias": {"5": -1}}, "bc"),
        ({}, "bcdef"),
    ],
)
async def test_sampling_parameters_are_json(stub: Any, sampling: dict[str, Any], text: str) -> None:
    request = infer_request(sampling=sampling, exclude_input_in_output=True)
    assert texts(await stub.ModelInfer(request)) == [text]


async def test_all_sampling_parameters_reach_the_engine(stub: Any, runner: ScriptedRunner) -> None:
    sampling = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.25, "seed": -2, "repetition_penalty": 1.5,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"65": 2.5}, "logprobs": 2,
        "max_tokens": 1, "ignore_eos": True, "priority": 3, "cache_prompt": False,
    }  # fmt: skip
    await stub.ModelInfer(infer_request(sampling=sampling))
    chosen = runner.slices[-1].sampling
    assert chosen is not None
    for name in (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "logprobs",
    ):
        assert getattr(chosen, name) == sampling[name]
    assert (chosen.frequency_penalty, chosen.seed, chosen.logit_bias) == (-0.5, 2**64 - 2, ((65, 2.5),))


async def test_parameters_of_the_request_take_the_place_of_the_json(stub: Any) -> None:
    request = infer_request(exclude_input_in_output=True)
    request.parameters["max_tokens"].int64_param = 2
    request.parameters["temperature"].string_param = "0.1"
    request.parameters["ignore_eos"].bool_param = True
    assert texts(await stub.ModelInfer(request)) == ["bc"]


async def test_the_json_goes_before_parameters_of_the_request(stub: Any) -> None:
    request = infer_request(sampling={"max_tokens": 3}, exclude_input_in_output=True)
    request.parameters["max_tokens"].string_param = "100"
    assert texts(await stub.ModelInfer(request)) == ["bcd"]


@pytest.mark.parametrize(("name", "version"), [("tiny", "7"), ("tiny", ""), ("", ""), ("tiny@7", "")])
async def test_a_model_is_named_as_everywhere(stub: Any, name: str, version: str) -> None:
    response = await stub.ModelInfer(infer_request(model=name, version=version))
    assert (response.model_name, response.model_version) == ("tiny", "7")


async def test_a_call_counts_like_any_other(stub: Any, live: Live) -> None:
    await stub.ModelInfer(infer_request(sampling={"max_tokens": 3}))
    labels = 'grpc_code="OK",grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService"'
    await live.until(f"grpc_server_handled_total{{{labels}", 1)
    assert await live.metric("cadenza_requests_finished_total") == 1


async def test_a_client_that_leaves_takes_its_request_along(
    stub: Any, live: Live, runner: ScriptedRunner
) -> None:
    runner.hold()
    call = stub.ModelInfer(infer_request())
    await live.begun(1)
    call.cancel()
    runner.allow(1)
    await live.until('cadenza_requests_cancelled_total{cause="client"', 1)
    runner.allow()
    await live.still_serves()


def test_the_messages_have_the_protocols_names_and_numbers() -> None:
    assert oip.DESCRIPTOR.package == "inference"
    (service,) = oip.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "inference.GRPCInferenceService"
    assert {
        message.name: {field.name: field.number for field in message.fields}
        for message in (oip.ModelInferRequest.DESCRIPTOR, oip.ModelInferResponse.DESCRIPTOR)
    } == {
        "ModelInferRequest": {
            "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6,
            "raw_input_contents": 7,
        },
        "ModelInferResponse": {
            "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5,
            "raw_output_contents": 6,
        },
    }  # fmt: skip
