"""What the axes of each weight mean: shapes are checked by it, and a server can spread weights by it."""

from collections.abc import Mapping

from cadenza.export.model import DecoderConfig, DecoderWeights, Leaf, named

Axes = tuple[str, ...]

_AXES: Mapping[str, Axes] = {
    "embedding": ("vocabulary", "hidden"),
    "head": ("vocabulary", "hidden"),
    "positions": ("position", "hidden"),
    "final_norm": ("hidden",),
    "attention_norm": ("hidden",),
    "mlp_norm": ("hidden",),
    "query_norm": ("head_dim",),
    "key_norm": ("head_dim",),
    "qkv": ("qkv_heads", "hidden"),
    "attention_output": ("hidden", "heads"),
    "gate": ("intermediate", "hidden"),
    "up": ("intermediate", "hidden"),
    "down": ("hidden", "intermediate"),
}


def axes(name: str) -> Axes:
    """The axes of a weight, by its name without the layer; a bias has those of its matrix's outputs."""
    whole = _AXES[name.removesuffix("_bias")]
    return whole[:1] if name.endswith("_bias") else whole


def shape(config: DecoderConfig, name: str) -> tuple[int, ...]:
    """The shape of a weight as the decoder takes it, by its name without the layer."""
    sizes = {
        "vocabulary": config.vocabulary_size,
        "position": config.max_context,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "head_dim": config.head_dim,
        "heads": config.query_size,
        "qkv_heads": config.qkv_size,
    }
    return tuple(sizes[axis] for axis in axes(name))


def weight_axes(weights: DecoderWeights[Leaf]) -> dict[str, Axes]:
    """The axes of all weights that a decoder has; those that every layer has once, by their name in it."""
    names = [name for name in named(weights) if not name.startswith("layer_")]
    return {name: axes(name) for name in [*names, *named(weights.layers[0])]}
