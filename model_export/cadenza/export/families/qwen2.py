"""Qwen 2 and 2.5: Llama with biases on q, k and v."""

from cadenza.export.families import rotary_gated
from cadenza.export.families.rotary_gated import Traits
from cadenza.export.model import Blueprint
from cadenza.export.settings import Settings
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_TRAITS = Traits("qwen2", qkv_bias=True)


def from_hugging_face(source: HuggingFaceFolder) -> Blueprint:
    """Qwen2ForCausalLM.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    refuse_windows(source.settings)
    return rotary_gated.from_hugging_face(source, _TRAITS)


def from_gguf(source: GgufFile) -> Blueprint:
    """The architecture `qwen2`.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    return rotary_gated.from_gguf(source, _TRAITS)


def refuse_windows(settings: Settings) -> None:
    """Refuses layers that see less than the whole context.

    Raises:
        UnsupportedModelError: there are such layers.
    """
    settings.require("use_sliding_window", False)
    kinds = settings.get("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise settings.refusal("layer_types", "absent, or full_attention in every layer")
