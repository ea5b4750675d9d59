"""Decoder families: each reads a source's settings into a Blueprint. A new one is a file and a line here."""

from collections.abc import Callable, Mapping

from cadenza.export.families import llama
from cadenza.export.model import Blueprint
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_HUGGING_FACE: Mapping[str, Callable[[HuggingFaceFolder], Blueprint]] = {
    "LlamaForCausalLM": llama.from_hugging_face,
}
_GGUF: Mapping[str, Callable[[GgufFile], Blueprint]] = {"llama": llama.from_gguf}


def blueprint(source: GgufFile | HuggingFaceFolder) -> Blueprint:
    """Finds the source's family and reads its settings; reads no weights.

    Raises:
        UnsupportedModelError: the architecture is unknown, or a setting cannot be exported exactly.
        TensorError: the tensors are not those of the family.
    """
    settings = source.settings
    if isinstance(source, GgufFile):
        architecture = settings.get("general.architecture")
        if architecture not in _GGUF:
            raise settings.refusal("general.architecture", _one_of(_GGUF))
        plan = _GGUF[str(architecture)](source)
    else:
        names = settings.get("architectures")
        if not isinstance(names, list) or len(names) != 1 or names[0] not in _HUGGING_FACE:
            raise settings.refusal("architectures", f"a list of one of {_one_of(_HUGGING_FACE)}")
        plan = _HUGGING_FACE[names[0]](source)
    plan.check(source)
    return plan


def _one_of(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
