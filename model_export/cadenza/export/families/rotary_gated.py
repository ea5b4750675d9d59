"""What Llama and its kin share: RMSNorm, rotary grouped-query attention, a gated MLP with SiLU.

A family says by its `Traits` in what it differs, and names what it refuses.
"""

import dataclasses
import functools

import numpy as np

from cadenza.export import rotary
from cadenza.export.errors import TensorError
from cadenza.export.families import checkpoint
from cadenza.export.families.rope import inverse_frequencies
from cadenza.export.model import (
    Affine,
    Blueprint,
    DecoderConfig,
    DecoderWeights,
    FloatArray,
    LayerWeights,
    Parts,
    Shape,
    unchanged,
)
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_ROPE_FACTORS = "rope_freqs.weight"
_GGUF_SETTINGS = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
}


@dataclasses.dataclass(frozen=True)
class Traits:
    """In what a family differs from Llama."""

    family: str
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    """Whether each query and key head is normed before it is rotated."""
    interleaved: bool = False
    """Whether GGUF files keep q and k as x0 y0 x1 y1 ... rotary pairs, and not half-split."""
    head_dim: int | None = None
    """Of folders that name none; the heads' share of the hidden size if not given."""
    window: int | None = None
    """Positions that attention sees, if not all: no longer context is exact."""


@dataclasses.dataclass(frozen=True)
class _Names:
    """What a format calls the tensors, without .weight and .bias."""

    embedding: str
    final_norm: str
    head: str
    layer: str
    attention_norm: str
    query: str
    key: str
    value: str
    attention_output: str
    query_norm: str
    key_norm: str
    mlp_norm: str
    gate: str
    up: str
    down: str


_HUGGING_FACE = _Names(
    embedding="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    layer="model.layers.{}.",
    attention_norm="input_layernorm",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_output="self_attn.o_proj",
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
)
_GGUF = _Names(
    embedding="token_embd",
    final_norm="output_norm",
    head="output",
    layer="blk.{}.",
    attention_norm="attn_norm",
    query="attn_q",
    key="attn_k",
    value="attn_v",
    attention_output="attn_output",
    query_norm="attn_q_norm",
    key_norm="attn_k_norm",
    mlp_norm="ffn_norm",
    gate="ffn_gate",
    up="ffn_up",
    down="ffn_down",
)


def from_hugging_face(source: HuggingFaceFolder, traits: Traits) -> Blueprint:
    """Reads config.json and names the tensors.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    settings = source.settings
    settings.require("hidden_act", "silu")
    settings.require("quantization_config")
    settings.require("partial_rotary_factor", 1)
    settings.section("rope_parameters").require("partial_rotary_factor", 1)
    hidden = settings.integer("hidden_size", high=checkpoint.MAX_SIZE)
    heads = settings.integer("num_attention_heads", high=checkpoint.MAX_HEADS)
    head_dim = settings.integer("head_dim", traits.head_dim or hidden // heads, high=checkpoint.MAX_HEAD_DIM)
    context = settings.integer("max_position_embeddings", high=checkpoint.MAX_CONTEXT)
    config = DecoderConfig(
        num_layers=settings.integer("num_hidden_layers", high=checkpoint.MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer("intermediate_size", high=checkpoint.MAX_SIZE),
        num_heads=heads,
        num_kv_heads=settings.integer("num_key_value_heads", heads, high=heads),
        head_dim=head_dim,
        vocabulary_size=settings.integer("vocab_size", high=checkpoint.MAX_VOCABULARY),
        max_context=min(context, traits.window or context),
        norm_epsilon=settings.number("rms_norm_eps", 1e-6),
        attention_scale=head_dim**-0.5,
        inverse_frequencies=inverse_frequencies(settings, head_dim, 10000.0),
    )
    checkpoint.check_heads(settings, config, "num_key_value_heads", "head_dim")
    tied = settings.boolean("tie_word_embeddings", False)
    weights = _weights(config, traits, _HUGGING_FACE, tied=tied, interleaved=False)
    copies = checkpoint.tied_copies(source, weights, "lm_head.weight")
    used = frozenset(name for name in source.shapes if name.endswith(".rotary_emb.inv_freq"))
    notes = _window_note(traits, context)
    return Blueprint(traits.family, config, weights, copies, used, notes)


def from_gguf(source: GgufFile, traits: Traits) -> Blueprint:
    """Reads the family's metadata and names the tensors of llama.cpp's converter.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    prefix = f"{traits.family}."
    settings = source.settings
    checkpoint.refuse_unknown(settings, prefix, _GGUF_SETTINGS)
    settings.require(f"{prefix}expert_count", 0)
    hidden = settings.integer(f"{prefix}embedding_length", high=checkpoint.MAX_SIZE)
    heads = settings.integer(f"{prefix}attention.head_count", high=checkpoint.MAX_HEADS)
    head_dim = settings.integer(
        f"{prefix}attention.key_length", hidden // heads, high=checkpoint.MAX_HEAD_DIM
    )
    settings.require(f"{prefix}attention.value_length", head_dim)
    settings.require(f"{prefix}rope.dimension_count", head_dim)
    vocabulary = checkpoint.vocabulary(source, "token_embd.weight")
    config = DecoderConfig(
        num_layers=settings.integer(f"{prefix}block_count", high=checkpoint.MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer(f"{prefix}feed_forward_length", high=checkpoint.MAX_SIZE),
        num_heads=heads,
        num_kv_heads=settings.integer(f"{prefix}attention.head_count_kv", heads, high=heads),
        head_dim=head_dim,
        vocabulary_size=settings.integer(f"{prefix}vocab_size", vocabulary, high=checkpoint.MAX_VOCABULARY),
        max_context=settings.integer(f"{prefix}context_length", high=checkpoint.MAX_CONTEXT),
        norm_epsilon=settings.number(f"{prefix}attention.layer_norm_rms_epsilon"),
        attention_scale=head_dim**-0.5,
        inverse_frequencies=_gguf_frequencies(source, prefix, head_dim),
    )
    checkpoint.check_heads(
        settings, config, f"{prefix}attention.head_count_kv", f"{prefix}attention.key_length"
    )
    tied = "output.weight" not in source.shapes
    weights = _weights(config, traits, _GGUF, tied=tied, interleaved=traits.interleaved)
    return Blueprint(traits.family, config, weights, used=frozenset({_ROPE_FACTORS}))


def half_split_rows(array: FloatArray, heads: int) -> FloatArray:
    """Reorders the rows of each head, [heads * head_dim, ...], from interleaved pairs (x0 y0 x1 y1 ...)
    to half-split ones (x0 x1 ... y0 y1 ...).
    """
    pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)


def _window_note(traits: Traits, context: int) -> tuple[str, ...]:
    if traits.window is None or traits.window >= context:
        return ()
    return (
        f"the context is {traits.window} tokens, not {context}: "
        "up to sliding_window the model is exact without a window",
    )


def _gguf_frequencies(source: GgufFile, prefix: str, head_dim: int) -> tuple[float, ...]:
    settings = source.settings
    frequencies = rotary.inverse_frequencies(settings.number(f"{prefix}rope.freq_base", 10000.0), head_dim)
    settings.require(f"{prefix}rope.scaling.type", "none", "linear")
    if settings.get(f"{prefix}rope.scaling.type") == "linear":
        frequencies = frequencies / settings.number(f"{prefix}rope.scaling.factor")
    if _ROPE_FACTORS in source.shapes:
        frequencies = frequencies / _rope_factors(source, frequencies.shape)
    return rotary.rounded(frequencies)


def _rope_factors(source: GgufFile, shape: Shape) -> FloatArray:
    if source.shapes[_ROPE_FACTORS] != shape:
        found, expected = list(source.shapes[_ROPE_FACTORS]), list(shape)
        raise TensorError(f"tensor {_ROPE_FACTORS} has shape {found}; expected {expected}")
    factors = source.read(_ROPE_FACTORS)
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise TensorError(f"tensor {_ROPE_FACTORS} holds numbers that are not finite and positive")
    return factors


def _weights(
    config: DecoderConfig, traits: Traits, names: _Names, *, tied: bool, interleaved: bool
) -> DecoderWeights[Parts]:
    hidden, vocabulary = config.hidden_size, config.vocabulary_size
    table = checkpoint.matrix(f"{names.embedding}.weight", vocabulary, hidden)
    head = table if tied else checkpoint.matrix(f"{names.head}.weight", vocabulary, hidden)
    return DecoderWeights(
        embedding=table,
        layers=tuple(
            _layer(config, traits, names, names.layer.format(index), interleaved)
            for index in range(config.num_layers)
        ),
        final_norm=checkpoint.norm(names.final_norm, hidden),
        head=Affine(head),
    )


def _layer(
    config: DecoderConfig, traits: Traits, names: _Names, prefix: str, interleaved: bool
) -> LayerWeights[Parts]:
    hidden, inner, bias = config.hidden_size, config.intermediate_size, traits.mlp_bias

    def projection(name: str, heads: int, *, rotated: bool) -> Affine[Parts]:
        split = functools.partial(half_split_rows, heads=heads) if rotated and interleaved else unchanged
        rows = heads * config.head_dim
        return checkpoint.linear(prefix + name, rows, hidden, bias=traits.qkv_bias, transform=split)

    def head_norm(name: str) -> Affine[Parts] | None:
        return checkpoint.norm(prefix + name, config.head_dim) if traits.head_norms else None

    return LayerWeights(
        attention_norm=checkpoint.norm(prefix + names.attention_norm, hidden),
        qkv=checkpoint.stacked(
            projection(names.query, config.num_heads, rotated=True),
            projection(names.key, config.num_kv_heads, rotated=True),
            projection(names.value, config.num_kv_heads, rotated=False),
        ),
        attention_output=checkpoint.linear(
            prefix + names.attention_output, hidden, config.query_size, bias=traits.output_bias
        ),
        mlp_norm=checkpoint.norm(prefix + names.mlp_norm, hidden),
        gate=checkpoint.linear(prefix + names.gate, inner, hidden, bias=bias),
        up=checkpoint.linear(prefix + names.up, inner, hidden, bias=bias),
        down=checkpoint.linear(prefix + names.down, hidden, inner, bias=bias),
        query_norm=head_norm(names.query_norm),
        key_norm=head_norm(names.key_norm),
    )
