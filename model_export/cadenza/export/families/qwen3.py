"""Qwen 3: Llama with a norm over each query and key head, and heads of a size of their own."""

from cadenza.export.families import rotary_gated
from cadenza.export.families.qwen2 import refuse_windows
from cadenza.export.families.rotary_gated import Traits
from cadenza.export.model import Blueprint
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_FAMILY = "qwen3"
_HEAD_DIM = 128


def from_hugging_face(source: HuggingFaceFolder) -> Blueprint:
    """Qwen3ForCausalLM.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    refuse_windows(source.settings)
    bias = source.settings.boolean("attention_bias", False)
    traits = Traits(_FAMILY, head_norms=True, qkv_bias=bias, output_bias=bias, head_dim=_HEAD_DIM)
    return rotary_gated.from_hugging_face(source, traits)


def from_gguf(source: GgufFile) -> Blueprint:
    """The architecture `qwen3`.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    return rotary_gated.from_gguf(source, Traits(_FAMILY, head_norms=True))
