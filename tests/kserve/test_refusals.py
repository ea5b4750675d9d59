"""What does not fit is refused with its name and what is allowed."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.kserve.client import add_input, infer_request
from tests.server.live import Refusal, read_error

from cadenza.kserve import inference_pb2 as oip


async def refused(stub: Any, request: oip.ModelInferRequest) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ModelInfer(request)
    return read_error(raised.value)


def _without_text() -> oip.ModelInferRequest:
    return oip.ModelInferRequest(model_name="tiny")


def _changed(change: Callable[[oip.ModelInferRequest], Any], *, raw: bool = True) -> oip.ModelInferRequest:
    request = infer_request(raw=raw)
    change(request)
    return request


def _set_shape(request: oip.ModelInferRequest, *shape: int) -> None:
    request.inputs[0].shape[:] = shape


def _set_raw(request: oip.ModelInferRequest, content: bytes) -> None:
    request.raw_input_contents[0] = content


def _set_parameter(request: oip.ModelInferRequest, name: str, value: int) -> None:
    request.parameters[name].int64_param = value


@pytest.mark.parametrize(
    ("request_", "reason", "message"),
    [
        (_without_text(), "MISSING_FIELD", "the input text_input, the prompt, is missing; set it"),
        (infer_request(""), "EMPTY_PROMPT", "text_input is empty; give at least one character"),
        (infer_request("a" * 128), "PROMPT_TOO_LONG", "text_input: the prompt has 128 tokens; at most 127"),
        (infer_request(b"a\xff"), "INVALID_TENSOR", "text_input is not UTF-8: invalid start byte at byte 1"),
        (infer_request(stream=True), "UNSUPPORTED_FIELD", "stream is true, which needs ModelStreamInfer"),
        (
            _changed(lambda request: add_input(request, "image", b"")),
            "INVALID_TENSOR", "inputs have 'image', which no model takes; the inputs are text_input, stream,",
        ),
        (
            _changed(lambda request: add_input(request, "text_input", b"b")),
            "INVALID_TENSOR", "text_input is given twice",
        ),
        (
            _changed(lambda request: request.inputs.add(name="stream", datatype="BOOL")),
            "INVALID_TENSOR", "raw_input_contents has 1 entries for 2 inputs; it needs one for each, or none",
        ),
        (
            _changed(lambda request: request.inputs[0].contents.bytes_contents.append(b"b")),
            "INVALID_TENSOR", "text_input has contents beside raw_input_contents; use one of them",
        ),
        (
            _changed(lambda request: setattr(request.inputs[0], "datatype", "FP32")),
            "INVALID_TENSOR", "text_input is of FP32; it must be of BYTES",
        ),
        (
            _changed(lambda request: _set_shape(request, 2)),
            "INVALID_TENSOR", "text_input has the shape [2]; it must have one element: [1]",
        ),
        (
            _changed(lambda request: _set_shape(request, -1, -1)),
            "INVALID_TENSOR", "text_input has the shape [-1, -1]; it must have one element: [1]",
        ),
        (
            _changed(lambda request: _set_raw(request, b"\2\0\0\0a")),
            "INVALID_TENSOR",
            "text_input has 5 bytes of raw content that begin with the length 2; one element is",
        ),
        (
            _changed(lambda request: _set_raw(request, b"\2")), "INVALID_TENSOR",
            "text_input has 1 bytes of raw",
        ),
        (
            _changed(lambda request: request.inputs[0].contents.bytes_contents.append(b"b"), raw=False),
            "INVALID_TENSOR", "text_input has 2 elements of BYTES in its contents; its shape has 1",
        ),
        (
            _changed(lambda request: request.inputs[0].parameters["shared_memory_region"].SetInParent()),
            "UNSUPPORTED_FIELD", "text_input has the parameters ['shared_memory_region']",
        ),
        (infer_request(outputs=("logits",)), "INVALID_TENSOR", "outputs have 'logits', which no model gives"),
        (infer_request(sampling=b"{"), "MALFORMED_REQUEST", "sampling_parameters is no JSON: EOF"),
        (
            infer_request(sampling=b"[" * 100_000), "MALFORMED_REQUEST",
            "sampling_parameters is no JSON: recursion",
        ),
        (infer_request(sampling=b'{"seed": NaN}'), "MALFORMED_REQUEST", "sampling_parameters is no JSON"),
        (
            infer_request(sampling=[1]), "MALFORMED_REQUEST",
            "sampling_parameters is [1]; it must be a JSON object",
        ),
        (
            infer_request(sampling={"beams": 1}), "UNKNOWN_FIELD",
            "sampling_parameters.beams is no parameter here",
        ),
        (
            infer_request(sampling={"echo": True}), "UNKNOWN_FIELD",
            "sampling_parameters.echo is no parameter here",
        ),
        (
            infer_request(sampling={"max_tokens": "many"}),
            "MALFORMED_REQUEST", "sampling_parameters.max_tokens is 'many'; it must be a whole number",
        ),
        (
            infer_request(sampling={"seed": "x" * 100_000}),
            "MALFORMED_REQUEST", "sampling_parameters.seed is 'xxx",
        ),
        (
            infer_request(sampling={"stop": [1]}),
            "MALFORMED_REQUEST", "sampling_parameters.stop is [1]; it must be a list, each a text",
        ),
        (
            infer_request(sampling={"ignore_eos": "yes"}),
            "MALFORMED_REQUEST", "sampling_parameters.ignore_eos is 'yes'; it must be true or false",
        ),
        (
            infer_request(sampling={"temperature": "NaN"}),
            "FIELD_OUT_OF_RANGE", "sampling_parameters.temperature is nan; it must be from 0 to 100",
        ),
        (
            infer_request(sampling={"n": 17}), "FIELD_OUT_OF_RANGE",
            "sampling_parameters.n is 17; it must be from 1",
        ),
        (
            _changed(lambda request: _set_parameter(request, "top_p", 2)),
            "FIELD_OUT_OF_RANGE", "parameters.top_p is 2; it must be above 0 to 1",
        ),
        (
            _changed(lambda request: _set_parameter(request, "nosuch", 2)),
            "UNKNOWN_FIELD", "parameters.nosuch is no parameter here",
        ),
        (
            _changed(lambda request: _set_parameter(request, "sequence_id", 2)),
            "UNSUPPORTED_FIELD",
            "parameters.sequence_id is set, which is not supported: requests do not depend",
        ),
        (
            _changed(lambda request: _set_parameter(request, "timeout", -1)),
            "MALFORMED_REQUEST", "parameters.timeout is -1; it must be a whole number of microseconds",
        ),
    ],
)  # fmt: skip
async def test_a_request_that_does_not_fit_is_invalid(
    stub: Any, request_: oip.ModelInferRequest, reason: str, message: str
) -> None:
    refusal = await refused(stub, request_)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert refusal.message.startswith(message), refusal.message
    assert len(refusal.message) < 500


async def test_a_stream_cannot_begin_with_the_prompt(live: Any, stub: Any) -> None:
    request = infer_request(stream=True, exclude_input_in_output=False)
    assert (await refused(stub, request)).message == (
        "exclude_input_in_output is false, which streams do not support; leave it out"
    )


@pytest.mark.parametrize(
    ("model", "version", "reason"),
    [
        ("no", "", "MODEL_NOT_FOUND"),
        ("tiny", "8", "VERSION_NOT_FOUND"),
        ("tiny", "best", "VERSION_NOT_FOUND"),
    ],
)
async def test_a_model_that_is_not_served_is_not_found(
    stub: Any, model: str, version: str, reason: str
) -> None:
    refusal = await refused(stub, infer_request(model=model, version=version))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, reason)
