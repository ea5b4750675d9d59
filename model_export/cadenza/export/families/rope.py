"""Rotary settings of Hugging Face folders, as all rotary families write them."""

from cadenza.export import rotary
from cadenza.export.settings import Settings

_SETTINGS = {
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "type",
}


def rope_settings(settings: Settings) -> Settings:
    """The section of rotary settings, by its old name or, as transformers looks, by its new; may be empty.

    Raises:
        UnsupportedModelError: it holds a setting that this exporter does not know.
    """
    rope = settings.section("rope_scaling") or settings.section("rope_parameters")
    for name in rope:
        if name not in _SETTINGS:
            raise rope.refusal(name, "absent: this exporter does not know it")
    return rope


def inverse_frequencies(settings: Settings, rotated: int, base: float) -> tuple[float, ...]:
    """Radians per position of `rotated` dimensions, scaled as rope_type says; `base` where none is named.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    rope = rope_settings(settings)
    base = rope.number("rope_theta", settings.number("rope_theta", base))
    kind_name = "rope_type" if "rope_type" in rope else "type"
    rope.require(kind_name, "default", "linear", "llama3")
    kind = rope.get(kind_name, "default")
    plain = rotary.inverse_frequencies(base, rotated)
    if kind == "llama3":
        return rotary.rounded(rotary.llama3_scaling(plain, rope))
    return rotary.rounded(plain / rope.number("factor") if kind == "linear" else plain)
