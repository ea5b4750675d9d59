"""What a server says of its models."""

from cadenza.server.models import ServedModel
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1.manifest_pb2 import Precision


def model_message(model: ServedModel) -> pb.Model:
    """What a model says of itself."""
    manifest = model.artifact.manifest
    precision = Precision.Name(manifest.cpu.precision).removeprefix("PRECISION_").lower()
    return pb.Model(
        name=model.name,
        version=model.artifact.version,
        family=manifest.family,
        precision=precision,
        parameter_count=manifest.parameter_count,
        vocabulary_size=manifest.decoder.vocabulary_size,
        max_context=model.max_context,
        default_max_tokens=manifest.default_max_tokens or model.max_context,
        has_chat_template=model.chat_template is not None,
        eos_token_ids=manifest.tokenizer.eos_token_ids,
    )
