"""What is refused is refused with TensorFlow Serving's codes and words."""

from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
from tests.server.live import Live, live_server, read_error
from tests.server.scripted_runner import ScriptedRunner
from tests.tfserving.client import ServingClient, predict_request, sampling

from cadenza.server.rpc.tfserving.tensors import MAX_ROWS

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Code, message and reason of the error that a call ends in."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = read_error(raised.value)
    return error.code, error.message, error.reason


def _wrong_shape() -> Any:
    return np.array([["a"], ["b"]], object)


def _ids(*values: int) -> Any:
    return np.array([values], np.int32)


@pytest.mark.parametrize(
    ("signature", "inputs", "outputs", "message"),
    [
        (
            "serving_default",
            {},
            [],
            "input size does not match signature: 0!=1 len({}) != len({prompt}). Sent extra: {}. "
            "Missing but required: {prompt}.",
        ),
        (
            "serving_default",
            {"prompt": ["a"], "nosuch": [1]},
            [],
            "input size does not match signature: 2!=1 len({nosuch,prompt}) != len({prompt}). "
            "Sent extra: {nosuch}. Missing but required: {}.",
        ),
        (
            "serving_default",
            {"nosuch": ["a"]},
            [],
            "input tensor alias not found in signature: nosuch. Inputs expected to be in the set {prompt}.",
        ),
        (
            "tokenize",
            {"text": ["a"]},
            ["ids"],
            "output tensor alias not found in signature: ids Outputs expected to be in the set "
            "{length,token_ids}.",
        ),
        ("tokenize", {"text": ["a"]}, ["length", "length"], "duplicate output tensor alias: length"),
        (
            "serving_default",
            {"prompt": np.array([1], np.int32)},
            [],
            "Expects arg[0] to be string but int32 is provided: input prompt",
        ),
        (
            "complete",
            {"prompt": ["a"], **sampling(1), "seed": np.array([1.5])},
            [],
            "Expects arg[2] to be int64 but double is provided: input seed",
        ),
        (
            "serving_default",
            {"prompt": _wrong_shape()},
            [],
            "input prompt has 2 dimensions; the signature takes 1",
        ),
        (
            "complete",
            {"prompt": ["a", "b"], **sampling(2), "top_k": np.array([1], np.int32)},
            [],
            "top_k needs one value for each prompt: it has 1 for 2 prompts",
        ),
        (
            "complete",
            {"prompt": ["a", "b"], **sampling(2, temperature=[0, -1])},
            [],
            "inputs[temperature][1] is -1; it must be from 0 to 100; 0 is greedy",
        ),
        (
            "complete",
            {"prompt": ["a"], **sampling(1, max_tokens=[-1])},
            [],
            "inputs[max_tokens][0] is -1; it must be from 1 to 127: 128 of context less 1 of prompt",
        ),
        (
            "serving_default",
            {"prompt": ["a", ""]},
            [],
            "inputs[prompt][1] is empty; give at least one character",
        ),
        (
            "score",
            {"text": ["a" * 128]},
            [],
            "inputs[text][0]: the prompt has 128 tokens; at most 127 leave room for one token of "
            "completion: shorten it",
        ),
        (
            "detokenize",
            {"token_ids": _ids(97, 260), "length": np.array([2], np.int32)},
            [],
            "inputs[token_ids][0][1] is 260; token ids of tiny are 0 to 259",
        ),
        (
            "detokenize",
            {"token_ids": _ids(97), "length": np.array([2], np.int32)},
            [],
            "length[0] is 2; it must be from 0 to 1, the columns of token_ids",
        ),
        (
            "detokenize",
            {"token_ids": _ids(97), "length": np.array([1, 1], np.int32)},
            [],
            "length needs one value a row: it has 2 for 1 rows",
        ),
    ],
)
async def test_inputs_that_do_not_fit_the_signature_are_invalid(
    signature: str, inputs: dict[str, Any], outputs: list[str], message: str, client: ServingClient
) -> None:
    request = predict_request(signature, inputs, outputs=outputs)
    code, said, _ = await refused(client.prediction.Predict(request))
    assert (code, said) == (INVALID, message)


async def test_a_tensor_that_is_none_is_a_parsing_error(client: ServingClient) -> None:
    request = predict_request("tokenize", {"text": ["a"]})
    request.inputs["text"].tensor_shape.dim[0].size = MAX_ROWS + 1
    code, said, reason = await refused(client.prediction.Predict(request))
    assert (code, reason) == (INVALID, "INVALID_TENSOR")
    assert said.startswith("tensor parsing error: text: its shape [16385] is more than the 16384 rows")


async def test_outputs_that_would_be_too_large_are_not_made(client: ServingClient) -> None:
    request = predict_request("tokenize", {"text": ["a" * 2000, *[""] * 999]})
    code, said, _ = await refused(client.prediction.Predict(request))
    assert (code, said) == (INVALID, "shape [1000, 2000] is more than the 1048576 elements that are allowed")


@pytest.mark.parametrize(
    ("signature", "code", "message"),
    [
        ("nosuch", grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "nosuch" not found.'),
        ("logits", grpc.StatusCode.UNIMPLEMENTED, "signature logits is not served here"),
    ],
)
async def test_signatures_that_are_not_there_or_not_served_are_named(
    signature: str, code: grpc.StatusCode, message: str, client: ServingClient
) -> None:
    request = predict_request(signature, {"token_ids": _ids(1)})
    found, said, _ = await refused(client.prediction.Predict(request))
    assert found is code
    assert said.startswith(message)


async def test_a_long_name_does_not_make_a_long_message(client: ServingClient) -> None:
    _, said, _ = await refused(client.prediction.Predict(predict_request("n" * 100_000, {"prompt": ["a"]})))
    assert len(said) == 1024


async def test_models_and_versions_that_are_not_there_are_not_found(client: ServingClient) -> None:
    request = predict_request("", {"prompt": ["a"]}, model="nosuch")
    found = await refused(client.prediction.Predict(request))
    assert found == (NOT_FOUND, "Servable not found for request: Latest(nosuch)", "MODEL_NOT_FOUND")
    request = predict_request("", {"prompt": ["a"]})
    request.model_spec.version.value = 8
    found = await refused(client.prediction.Predict(request))
    said = "Servable not found for request: Specific(tiny, 8)"
    assert found == (NOT_FOUND, said, "VERSION_NOT_FOUND")


async def test_a_request_without_a_model_is_invalid(client: ServingClient) -> None:
    found = await refused(client.prediction.Predict(predict_pb2.PredictRequest()))
    assert found == (INVALID, "Missing ModelSpec", "MISSING_FIELD")
    found = await refused(client.prediction.Predict(predict_request("", {"prompt": ["a"]}, model="")))
    assert found[:2] == (INVALID, "ModelSpec has no name specified.")


async def test_labels_choose_versions_and_unknown_ones_are_invalid(
    artifact: Any, runner: ScriptedRunner
) -> None:
    labels = ("tiny:stable=7", "tiny:next=8")
    async with live_server(artifact, runner, version_label=labels) as live:
        client = ServingClient(live.channel)
        request = predict_request("", {"prompt": ["a"]})
        request.model_spec.version_label = "stable"
        response = await client.prediction.Predict(request)
        assert response.model_spec.version.value == 7
        request.model_spec.version_label = "next"
        found = await refused(client.prediction.Predict(request))
        assert found[:2] == (NOT_FOUND, "Servable not found for request: Specific(tiny, 8)")
        request.model_spec.version_label = "nosuch"
        found = await refused(client.prediction.Predict(request))
        assert found == (INVALID, "Unrecognized servable version label: nosuch", "VERSION_NOT_FOUND")


async def test_metadata_is_asked_for_by_a_field_that_there_is(client: ServingClient) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    assert (await refused(client.prediction.GetModelMetadata(request)))[1] == "Missing ModelSpec"
    request.model_spec.name = "tiny"
    said = "GetModelMetadataRequest must specify at least one metadata_field"
    assert (await refused(client.prediction.GetModelMetadata(request)))[:2] == (INVALID, said)
    request.metadata_field.append("graph")
    said = "Metadata field graph is not supported"
    assert (await refused(client.prediction.GetModelMetadata(request)))[:2] == (INVALID, said)


async def test_the_status_of_what_there_is_not_is_not_found(client: ServingClient) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    assert (await refused(client.models.GetModelStatus(request)))[:2] == (INVALID, "Missing ModelSpec")
    request.model_spec.name = "nosuch"
    said = "Could not find any versions of model nosuch"
    assert (await refused(client.models.GetModelStatus(request)))[:2] == (NOT_FOUND, said)
    request.model_spec.name = "tiny"
    request.model_spec.version.value = 8
    said = "Could not find version 8 of model tiny"
    assert (await refused(client.models.GetModelStatus(request)))[:2] == (NOT_FOUND, said)


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
async def test_what_is_no_prediction_is_unimplemented_and_says_so(method: str, live: Live) -> None:
    call: Any = live.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    code, said, reason = await refused(call(b""))
    assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED")
    assert said.startswith(f"{method} is not served")
    reload: Any = live.channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
    assert (await refused(reload(b"")))[0] is grpc.StatusCode.UNIMPLEMENTED


async def test_bytes_that_are_no_message_are_malformed(live: Live) -> None:
    call: Any = live.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert (await refused(call(b"\xff")))[2] == "MALFORMED_REQUEST"
