"""What every model takes and gives: the tensors of Triton's vLLM backend, whose clients look for them."""

import dataclasses
from collections.abc import Mapping

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.models import ServedModel

PLATFORM = "tensorflow_savedmodel"
"""What artifacts are, as the protocol names it."""


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor by name. A size of -1 is as many elements as a request has choices."""

    name: str
    datatype: str
    size: int = 1


INPUTS = (
    TensorSpec("text_input", "BYTES"),
    TensorSpec("stream", "BOOL"),
    TensorSpec("sampling_parameters", "BYTES"),
    TensorSpec("exclude_input_in_output", "BOOL"),
    TensorSpec("return_finish_reason", "BOOL"),
    TensorSpec("return_cumulative_logprob", "BOOL"),
    TensorSpec("return_logprobs", "BOOL"),
    TensorSpec("return_num_input_tokens", "BOOL"),
    TensorSpec("return_num_output_tokens", "BOOL"),
)
"""All but the first may be left out."""

OUTPUTS = (
    TensorSpec("text_output", "BYTES", -1),
    TensorSpec("finish_reason", "BYTES", -1),
    TensorSpec("cumulative_logprob", "FP32", -1),
    TensorSpec("logprobs", "BYTES", -1),
    TensorSpec("num_input_tokens", "UINT32"),
    TensorSpec("num_output_tokens", "UINT32", -1),
)
"""The first is given always, the others where an input or the request's outputs ask for them."""

RETURNS: Mapping[str, str] = {f"return_{spec.name}": spec.name for spec in OUTPUTS[1:]}
"""Outputs by the inputs that ask for them."""


def model_metadata(model: ServedModel, versions: list[int]) -> oip.ModelMetadataResponse:
    """What is said of a model. `versions` are those that take requests."""
    return oip.ModelMetadataResponse(
        name=model.name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=map(_metadata, INPUTS),
        outputs=map(_metadata, OUTPUTS),
    )


def _metadata(spec: TensorSpec) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[spec.size])
