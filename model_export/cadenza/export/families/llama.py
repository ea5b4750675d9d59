"""Llama 1, 2 and 3, and what is built like them (SmolLM, TinyLlama, ...)."""

from cadenza.export.families import rotary_gated
from cadenza.export.families.rotary_gated import Traits
from cadenza.export.model import Blueprint
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_FAMILY = "llama"


def from_hugging_face(source: HuggingFaceFolder) -> Blueprint:
    """LlamaForCausalLM.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    attention_bias = source.settings.boolean("attention_bias", False)
    mlp_bias = source.settings.boolean("mlp_bias", False)
    source.settings.require("sliding_window")
    traits = Traits(_FAMILY, qkv_bias=attention_bias, output_bias=attention_bias, mlp_bias=mlp_bias)
    return rotary_gated.from_hugging_face(source, traits)


def from_gguf(source: GgufFile) -> Blueprint:
    """The architecture `llama`, in which Mistral comes too.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    return rotary_gated.from_gguf(source, Traits(_FAMILY, interleaved=True))
