"""Mistral: Llama, with a sliding window in its first release. Contexts up to the window do not feel it."""

from cadenza.export.families import checkpoint, rotary_gated
from cadenza.export.families.rotary_gated import Traits
from cadenza.export.model import Blueprint
from cadenza.export.sources.hugging_face import HuggingFaceFolder


def from_hugging_face(source: HuggingFaceFolder) -> Blueprint:
    """MistralForCausalLM. In GGUF files Mistral is the architecture `llama`.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    settings, window = source.settings, None
    if "sliding_window" in settings:
        window = settings.integer("sliding_window", high=checkpoint.MAX_CONTEXT)
    return rotary_gated.from_hugging_face(source, Traits("mistral", window=window))
