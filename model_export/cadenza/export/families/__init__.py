"""Decoder families: each reads a source's settings into a Blueprint. A new one is a file and a line here."""

from collections.abc import Callable, Mapping

from cadenza.export.families import gpt2, gpt_neox, llama, mistral, qwen2, qwen3
from cadenza.export.model import Blueprint
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_HUGGING_FACE: Mapping[str, Callable[[HuggingFaceFolder], Blueprint]] = {
    "GPT2LMHeadModel": gpt2.from_hugging_face,
    "GPTNeoXForCausalLM": gpt_neox.from_hugging_face,
    "LlamaForCausalLM": llama.from_hugging_face,
    "MistralForCausalLM": mistral.from_hugging_face,
    "Qwen2ForCausalLM": qwen2.from_hugging_face,
    "Qwen3ForCausalLM": qwen3.from_hugging_face,
}
_GGUF: Mapping[str, Callable[[GgufFile], Blueprint]] = {
    "gpt2": gpt2.from_gguf,
    "gptneox": gpt_neox.from_gguf,
    "llama": llama.from_gguf,
    "qwen2": qwen2.from_gguf,
    "qwen3": qwen3.from_gguf,
}


def blueprint(source: GgufFile | HuggingFaceFolder) -> Blueprint:
    """Finds the source's family and reads its settings; reads no weights.

    Raises:
        UnsupportedModelError: the architecture is unknown, or a setting cannot be exported exactly.
        TensorError: the vocabulary cannot be told from the tensors.
    """
    settings = source.settings
    if isinstance(source, GgufFile):
        architecture = settings.get("general.architecture")
        if not isinstance(architecture, str) or architecture not in _GGUF:
            raise settings.refusal("general.architecture", f"one of {_one_of(_GGUF)}")
        return _GGUF[architecture](source)
    names = settings.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or str(names[0]) not in _HUGGING_FACE:
        raise settings.refusal("architectures", f"a list of one of {_one_of(_HUGGING_FACE)}")
    return _HUGGING_FACE[names[0]](source)


def _one_of(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
