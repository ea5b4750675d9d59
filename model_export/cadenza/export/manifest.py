"""manifest.json: what the artifact says of itself to the server."""

from collections.abc import Sequence
from importlib.metadata import version

from google.protobuf import json_format
from google.protobuf.message import Message

from cadenza.export.artifact import CONTRACT_VERSION
from cadenza.export.axes import weight_axes
from cadenza.export.model import Blueprint, DecoderConfig, Precision
from cadenza.export.tokenizer import TokenizerFiles
from cadenza.v1 import manifest_pb2

DEFAULT_MAX_TOKENS = 256


def manifest(
    blueprint: Blueprint,
    tokenizer: TokenizerFiles,
    cpu: manifest_pb2.CpuProgram,
    source: str,
    source_sha256: Sequence[str],
) -> manifest_pb2.ModelManifest:
    """The manifest; source_sha256 are the sums of the source's weight files."""
    return manifest_pb2.ModelManifest(
        contract_version=CONTRACT_VERSION,
        producer=f"cadenza-export {version('cadenza')}",
        source=source,
        source_sha256=source_sha256,
        family=blueprint.family,
        parameter_count=blueprint.parameter_count(),
        decoder=decoder_shape(blueprint.config),
        tokenizer=manifest_pb2.TokenizerInfo(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_ids=tokenizer.eos_token_ids,
            add_bos_token=tokenizer.add_bos_token,
        ),
        default_max_tokens=DEFAULT_MAX_TOKENS,
        cpu=cpu,
        accelerator=_accelerator_program(blueprint, cpu.precision),
    )


def as_json(message: Message) -> str:
    """A message as the JSON text that artifacts keep."""
    return str(json_format.MessageToJson(message, preserving_proto_field_name=True)) + "\n"


def decoder_shape(config: DecoderConfig) -> manifest_pb2.DecoderShape:
    """The sizes that a runner needs."""
    return manifest_pb2.DecoderShape(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocabulary_size=config.vocabulary_size,
        max_context=config.max_context,
        attention_scale=config.attention_scale,
        rotary=manifest_pb2.RotaryEmbedding(inverse_frequencies=config.inverse_frequencies),
    )


def _accelerator_program(
    blueprint: Blueprint, cpu: manifest_pb2.Precision.ValueType
) -> manifest_pb2.AcceleratorProgram:
    """The step programs; beside an int8 CPU program the SavedModel's variables are float32."""
    weights = weight_axes(blueprint.weights).items()
    return manifest_pb2.AcceleratorProgram(
        precisions=[manifest_pb2.Precision.Value(f"PRECISION_{precision.name}") for precision in Precision],
        stored=manifest_pb2.PRECISION_FLOAT32 if cpu == manifest_pb2.PRECISION_INT8 else cpu,
        weights=[manifest_pb2.WeightAxes(name=name, axes=axes) for name, axes in weights],
    )
