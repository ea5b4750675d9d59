"""A request's tensors, held against what models take."""

import dataclasses
from collections.abc import Mapping

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.errors import InvalidRequestError, Reason, quote
from cadenza.server.rpc.kserve.parameters import read_json, read_map, read_timeout
from cadenza.server.rpc.kserve.signature import INPUTS, OUTPUTS, RETURNS
from cadenza.server.rpc.kserve.tensors import TensorError, read_element
from cadenza.v1 import completion_pb2 as pb

_DATATYPES = {spec.name: spec.datatype for spec in INPUTS}


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    """What a request asks for."""

    text: str
    stream: bool
    repeats_text: bool
    """Whether the answer begins with the prompt."""
    parameters: pb.CompletionParameters
    parameters_path: str
    """Where the parameters came from."""
    timeout: float | None
    """Seconds."""
    outputs: frozenset[str]
    """The names of those that are wanted."""
    raw: bool
    """Whether tensors are raw; the answer's are as the request's."""


def read_inputs(request: oip.ModelInferRequest) -> Inputs:
    """Raises InvalidRequestError."""
    given = _elements(request)
    if "text_input" not in given:
        raise InvalidRequestError(
            Reason.MISSING_FIELD, "text_input", "the input text_input, the prompt, is missing; set it"
        )
    stream = given.get("stream") is True
    has_json = "sampling_parameters" in given
    outputs = _outputs(request, given)
    parameters = read_json(_bytes(given, "sampling_parameters")) if has_json else read_map(request.parameters)
    if "cumulative_logprob" in outputs and not parameters.HasField("logprobs"):
        parameters.logprobs = 0
    return Inputs(
        text=_text(_bytes(given, "text_input")),
        stream=stream,
        repeats_text=_repeats_text(given.get("exclude_input_in_output"), stream=stream),
        parameters=parameters,
        parameters_path="sampling_parameters" if has_json else "parameters",
        timeout=read_timeout(request.parameters),
        outputs=outputs,
        raw=bool(request.raw_input_contents),
    )


def _elements(request: oip.ModelInferRequest) -> dict[str, bytes | bool]:
    """The inputs by name, each one element."""
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise _invalid(
            "raw_input_contents",
            f"has {len(raws)} entries for {len(request.inputs)} inputs; it needs one for each, or none",
        )
    given: dict[str, bytes | bool] = {}
    for index, tensor in enumerate(request.inputs):
        name = tensor.name
        if name not in _DATATYPES:
            known = ", ".join(_DATATYPES)
            raise _invalid("inputs", f"have {quote(name)}, which no model takes; the inputs are {known}")
        if name in given:
            raise _invalid(name, "is given twice")
        if tensor.parameters:
            keys = quote(sorted(tensor.parameters))
            raise _unsupported(name, f"has the parameters {keys}: inputs have none here, no shared memory")
        if raws and tensor.HasField("contents"):
            raise _invalid(name, "has contents beside raw_input_contents; use one of them")
        try:
            given[name] = read_element(tensor, _DATATYPES[name], raws[index] if raws else None)
        except TensorError as error:
            raise _invalid(name, str(error)) from error
    return given


def _outputs(request: oip.ModelInferRequest, given: Mapping[str, bytes | bool]) -> frozenset[str]:
    """Those that the request lists, else the text and what inputs ask for."""
    known = [spec.name for spec in OUTPUTS]
    for output in request.outputs:
        if output.name not in known:
            raise _invalid("outputs", f"have {quote(output.name)}, which no model gives; there are {known}")
        if output.parameters:
            keys = quote(sorted(output.parameters))
            raise _unsupported(output.name, f"has the parameters {keys}: outputs have none here")
    if request.outputs:
        return frozenset(output.name for output in request.outputs)
    asked = (output for name, output in RETURNS.items() if given.get(name))
    return frozenset({"text_output", *asked})


def _repeats_text(exclude: bytes | bool | None, *, stream: bool) -> bool:
    """As Triton's vLLM backend: whole answers begin with the prompt unless told otherwise, streams never."""
    if exclude is None:
        return not stream
    if stream and not exclude:
        raise _unsupported("exclude_input_in_output", "is false, which streams do not support; leave it out")
    return not exclude


def _bytes(given: Mapping[str, bytes | bool], name: str) -> bytes:
    value = given[name]
    if not isinstance(value, bytes):
        raise TypeError(f"{name} was read as BYTES: {value!r}")
    return value


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _invalid("text_input", f"is not UTF-8: {error.reason} at byte {error.start}") from error


def _invalid(name: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(Reason.INVALID_TENSOR, name, f"{name} {what}")


def _unsupported(name: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(Reason.UNSUPPORTED_FIELD, name, f"{name} {what}")
