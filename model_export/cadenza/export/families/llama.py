"""The Llama family (Llama 2 and 3, SmolLM): RMSNorm, rotary grouped-query attention, SwiGLU, no biases.

Hugging Face keeps q and k in the half-split rotary form, GGUF interleaved.
"""

import functools

import numpy as np

from cadenza.export import rotary
from cadenza.export.errors import TensorError
from cadenza.export.model import (
    Blueprint,
    DecoderConfig,
    DecoderWeights,
    FloatArray,
    LayerWeights,
    Parts,
    Shape,
    StoredTensor,
)
from cadenza.export.settings import Settings
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_FAMILY = "llama"
_MAX_LAYERS = 1024
_MAX_HEADS = 1024
_MAX_HEAD_DIM = 1024
_MAX_SIZE = 2**17
_MAX_VOCABULARY = 2**20
_ROPE_FACTORS = "rope_freqs.weight"
_ROPE_SETTINGS = {
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "type",
}
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


def from_hugging_face(source: HuggingFaceFolder) -> Blueprint:
    """Reads config.json and names the tensors of LlamaForCausalLM.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    settings = source.settings
    settings.require("hidden_act", "silu")
    settings.require("attention_bias", False)
    settings.require("mlp_bias", False)
    settings.require("quantization_config")
    hidden = settings.integer("hidden_size", high=_MAX_SIZE)
    heads = settings.integer("num_attention_heads", high=_MAX_HEADS)
    head_dim = settings.integer("head_dim", hidden // heads, high=_MAX_HEAD_DIM)
    context = settings.integer("max_position_embeddings", high=rotary.MAX_CONTEXT)
    window = settings.get("sliding_window")
    if window is not None and (not isinstance(window, int) or window < context):
        raise settings.refusal("sliding_window", f"absent or at least max_position_embeddings, {context}")
    config = DecoderConfig(
        num_layers=settings.integer("num_hidden_layers", high=_MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer("intermediate_size", high=_MAX_SIZE),
        num_heads=heads,
        num_kv_heads=settings.integer("num_key_value_heads", heads, high=heads),
        head_dim=head_dim,
        vocabulary_size=settings.integer("vocab_size", high=_MAX_VOCABULARY),
        max_context=context,
        norm_epsilon=settings.number("rms_norm_eps", 1e-6),
        attention_scale=head_dim**-0.5,
        inverse_frequencies=_hugging_face_frequencies(settings, head_dim),
    )
    _check_heads(settings, config, "num_key_value_heads", "head_dim")
    tied = settings.boolean("tie_word_embeddings", False)
    copies = (
        {"lm_head.weight": "model.embed_tokens.weight"} if tied and "lm_head.weight" in source.shapes else {}
    )
    used = frozenset(name for name in source.shapes if name.endswith(".rotary_emb.inv_freq"))
    return Blueprint(_FAMILY, config, _hugging_face_weights(config, tied), copies, used)


def from_gguf(source: GgufFile) -> Blueprint:
    """Reads the llama.* metadata and names the tensors of llama.cpp's converter.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    prefix = f"{_FAMILY}."
    for name in source.settings:
        if name.startswith(prefix) and name.removeprefix(prefix) not in _GGUF_SETTINGS:
            raise source.settings.refusal(name, "absent: this exporter does not know it")
    settings = source.settings
    settings.require(f"{prefix}expert_count", 0)
    hidden = settings.integer(f"{prefix}embedding_length", high=_MAX_SIZE)
    heads = settings.integer(f"{prefix}attention.head_count", high=_MAX_HEADS)
    head_dim = settings.integer(f"{prefix}attention.key_length", hidden // heads, high=_MAX_HEAD_DIM)
    settings.require(f"{prefix}attention.value_length", head_dim)
    settings.require(f"{prefix}rope.dimension_count", head_dim)
    embedding = source.shapes.get("token_embd.weight", (0,))
    config = DecoderConfig(
        num_layers=settings.integer(f"{prefix}block_count", high=_MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer(f"{prefix}feed_forward_length", high=_MAX_SIZE),
        num_heads=heads,
        num_kv_heads=settings.integer(f"{prefix}attention.head_count_kv", heads, high=heads),
        head_dim=head_dim,
        vocabulary_size=settings.integer(f"{prefix}vocab_size", embedding[0], high=_MAX_VOCABULARY),
        max_context=settings.integer(f"{prefix}context_length", high=rotary.MAX_CONTEXT),
        norm_epsilon=settings.number(f"{prefix}attention.layer_norm_rms_epsilon"),
        attention_scale=head_dim**-0.5,
        inverse_frequencies=_gguf_frequencies(source, prefix, head_dim),
    )
    _check_heads(settings, config, f"{prefix}attention.head_count_kv", f"{prefix}attention.key_length")
    weights = _gguf_weights(config, tied="output.weight" not in source.shapes)
    return Blueprint(_FAMILY, config, weights, used=frozenset({_ROPE_FACTORS}))


def half_split_rows(array: FloatArray, heads: int) -> FloatArray:
    """Reorders the rows of each head, [heads * head_dim, n], from interleaved (x0 y0 x1 y1 ...) to half-split
    (x0 x1 ... y0 y1 ...) rotary pairs.
    """
    rows, columns = array.shape
    pairs = array.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


def _check_heads(settings: Settings, config: DecoderConfig, kv_heads: str, head_dim: str) -> None:
    if config.num_heads % config.num_kv_heads:
        raise settings.refusal(kv_heads, f"a divisor of the {config.num_heads} heads")
    if config.head_dim % 2:
        raise settings.refusal(head_dim, "even, as rotary embeddings turn pairs")


def _hugging_face_frequencies(settings: Settings, head_dim: int) -> tuple[float, ...]:
    rope = settings.section("rope_parameters" if "rope_parameters" in settings else "rope_scaling")
    for name in rope:
        if name not in _ROPE_SETTINGS:
            raise rope.refusal(name, "absent: this exporter does not know it")
    base = rope.number("rope_theta", settings.number("rope_theta", 10000.0))
    for section in (settings, rope):
        section.require("partial_rotary_factor", 1)
    kind_name = "rope_type" if "rope_type" in rope else "type"
    rope.require(kind_name, "default", "linear", "llama3")
    kind = rope.get(kind_name, "default")
    plain = rotary.inverse_frequencies(base, head_dim)
    if kind == "llama3":
        return rotary.rounded(rotary.llama3_scaling(plain, rope))
    return rotary.rounded(plain / rope.number("factor") if kind == "linear" else plain)


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


def _hugging_face_weights(config: DecoderConfig, tied: bool) -> DecoderWeights[Parts]:
    def layer(index: int) -> LayerWeights[Parts]:
        prefix = f"model.layers.{index}."
        attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
        return LayerWeights(
            attention_norm=_vector(f"{prefix}input_layernorm.weight", config),
            qkv=(
                StoredTensor(f"{attention}q_proj.weight", (config.query_size, config.hidden_size)),
                StoredTensor(f"{attention}k_proj.weight", (config.kv_size, config.hidden_size)),
                StoredTensor(f"{attention}v_proj.weight", (config.kv_size, config.hidden_size)),
            ),
            attention_output=_matrix(f"{attention}o_proj.weight", config.hidden_size, config.query_size),
            mlp_norm=_vector(f"{prefix}post_attention_layernorm.weight", config),
            gate=_matrix(f"{mlp}gate_proj.weight", config.intermediate_size, config.hidden_size),
            up=_matrix(f"{mlp}up_proj.weight", config.intermediate_size, config.hidden_size),
            down=_matrix(f"{mlp}down_proj.weight", config.hidden_size, config.intermediate_size),
        )

    layers = tuple(layer(index) for index in range(config.num_layers))
    return _whole(config, layers, "model.embed_tokens", "model.norm", None if tied else "lm_head")


def _gguf_weights(config: DecoderConfig, tied: bool) -> DecoderWeights[Parts]:
    query = functools.partial(half_split_rows, heads=config.num_heads)
    key = functools.partial(half_split_rows, heads=config.num_kv_heads)

    def layer(index: int) -> LayerWeights[Parts]:
        prefix = f"blk.{index}."
        return LayerWeights(
            attention_norm=_vector(f"{prefix}attn_norm.weight", config),
            qkv=(
                StoredTensor(f"{prefix}attn_q.weight", (config.query_size, config.hidden_size), query),
                StoredTensor(f"{prefix}attn_k.weight", (config.kv_size, config.hidden_size), key),
                StoredTensor(f"{prefix}attn_v.weight", (config.kv_size, config.hidden_size)),
            ),
            attention_output=_matrix(f"{prefix}attn_output.weight", config.hidden_size, config.query_size),
            mlp_norm=_vector(f"{prefix}ffn_norm.weight", config),
            gate=_matrix(f"{prefix}ffn_gate.weight", config.intermediate_size, config.hidden_size),
            up=_matrix(f"{prefix}ffn_up.weight", config.intermediate_size, config.hidden_size),
            down=_matrix(f"{prefix}ffn_down.weight", config.hidden_size, config.intermediate_size),
        )

    layers = tuple(layer(index) for index in range(config.num_layers))
    return _whole(config, layers, "token_embd", "output_norm", None if tied else "output")


def _whole(
    config: DecoderConfig,
    layers: tuple[LayerWeights[Parts], ...],
    embedding: str,
    norm: str,
    head: str | None,
) -> DecoderWeights[Parts]:
    table = _matrix(f"{embedding}.weight", config.vocabulary_size, config.hidden_size)
    separate = _matrix(f"{head}.weight", config.vocabulary_size, config.hidden_size)
    return DecoderWeights(
        embedding=table,
        layers=layers,
        final_norm=_vector(f"{norm}.weight", config),
        head=table if head is None else separate,
    )


def _vector(name: str, config: DecoderConfig) -> Parts:
    return (StoredTensor(name, (config.hidden_size,)),)


def _matrix(name: str, rows: int, columns: int) -> Parts:
    return (StoredTensor(name, (rows, columns)),)
