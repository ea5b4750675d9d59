"""GPT-NeoX and Pythia: LayerNorm, rotary embedding of a part of each head, attention and MLP side by side."""

import functools

import numpy as np

from cadenza.export import rotary
from cadenza.export.families import checkpoint, layer_norm_gguf
from cadenza.export.families.rope import inverse_frequencies, rope_settings
from cadenza.export.model import (
    Activation,
    Affine,
    Blueprint,
    DecoderConfig,
    DecoderWeights,
    FloatArray,
    LayerWeights,
    Norm,
    Parts,
    StoredTensor,
)
from cadenza.export.settings import Settings
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_FAMILY = "gpt_neox"
_GGUF = "gptneox"
_BASE = 10000.0
_HEADS = ("embed_out.weight", "lm_head.weight")
"""What the head is called in checkpoints, and in transformers 5 while it is in memory."""
_GGUF_SETTINGS = {
    "attention.head_count",
    "attention.layer_norm_epsilon",
    "attention.max_alibi_bias",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "use_parallel_residual",
}


def from_hugging_face(source: HuggingFaceFolder) -> Blueprint:
    """GPTNeoXForCausalLM, whose q, k and v lie head by head.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    settings = source.settings
    settings.require("quantization_config")
    hidden = settings.integer("hidden_size", high=checkpoint.MAX_SIZE)
    heads = settings.integer("num_attention_heads", high=checkpoint.MAX_HEADS)
    head_dim = checkpoint.head_dim(settings, hidden, heads, "num_attention_heads")
    config = DecoderConfig(
        num_layers=settings.integer("num_hidden_layers", high=checkpoint.MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer("intermediate_size", high=4 * checkpoint.MAX_SIZE),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        vocabulary_size=settings.integer("vocab_size", high=checkpoint.MAX_VOCABULARY),
        max_context=settings.integer("max_position_embeddings", high=checkpoint.MAX_CONTEXT),
        norm_epsilon=settings.number("layer_norm_eps", 1e-5),
        attention_scale=head_dim**-0.5,
        inverse_frequencies=_hugging_face_frequencies(settings, head_dim),
        norm=Norm.LAYER,
        activation=checkpoint.activation(settings, "hidden_act", "gelu"),
        parallel_residual=settings.boolean("use_parallel_residual", True),
    )
    head = next((name for name in _HEADS if name in source.shapes), _HEADS[0])
    weights = _hugging_face_weights(
        config,
        head,
        attention_bias=settings.boolean("attention_bias", True),
        tied=settings.boolean("tie_word_embeddings", False),
    )
    copies = checkpoint.tied_copies(source, weights, head)
    buffers = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
    used = frozenset(name for name in source.shapes if name.endswith(buffers))
    return Blueprint(_FAMILY, config, weights, copies, used)


def from_gguf(source: GgufFile) -> Blueprint:
    """The architecture `gptneox`, whose q, k and v lie one below the other.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    settings, prefix = source.settings, f"{_GGUF}."
    checkpoint.refuse_unknown(settings, prefix, _GGUF_SETTINGS)
    settings.require(f"{prefix}attention.max_alibi_bias", 0.0)
    hidden = settings.integer(f"{prefix}embedding_length", high=checkpoint.MAX_SIZE)
    heads = settings.integer(f"{prefix}attention.head_count", high=checkpoint.MAX_HEADS)
    head_dim = checkpoint.head_dim(settings, hidden, heads, f"{prefix}attention.head_count")
    rotated = settings.integer(f"{prefix}rope.dimension_count", head_dim, high=head_dim)
    base = settings.number(f"{prefix}rope.freq_base", _BASE)
    config = DecoderConfig(
        num_layers=settings.integer(f"{prefix}block_count", high=checkpoint.MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer(f"{prefix}feed_forward_length", high=4 * checkpoint.MAX_SIZE),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        vocabulary_size=checkpoint.vocabulary(source, "token_embd.weight"),
        max_context=settings.integer(f"{prefix}context_length", high=checkpoint.MAX_CONTEXT),
        norm_epsilon=settings.number(f"{prefix}attention.layer_norm_epsilon"),
        attention_scale=head_dim**-0.5,
        inverse_frequencies=rotary.rounded(rotary.inverse_frequencies(base, rotated)),
        norm=Norm.LAYER,
        activation=Activation.GELU,
        parallel_residual=settings.boolean(f"{prefix}use_parallel_residual", True),
    )
    return Blueprint(_FAMILY, config, layer_norm_gguf.weights(source, config, positions=False))


def head_by_head(array: FloatArray, heads: int) -> FloatArray:
    """Rows (or elements) q0 k0 v0 q1 k1 v1 ... of heads -> q0 q1 ... k0 k1 ... v0 v1 ..."""
    rest = array.shape[1:]
    parts = array.reshape(heads, 3, array.shape[0] // heads // 3, *rest)
    return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(array.shape)


def _hugging_face_frequencies(settings: Settings, head_dim: int) -> tuple[float, ...]:
    share = rope_settings(settings).number("partial_rotary_factor", settings.number("rotary_pct", 0.25))
    rotated = int(head_dim * share)
    if rotated % 2 or not 0 < rotated <= head_dim:
        raise settings.refusal(
            "rotary_pct", f"a share that rotates an even number of the {head_dim} dimensions"
        )
    return inverse_frequencies(settings, rotated, settings.number("rotary_emb_base", _BASE))


def _hugging_face_weights(
    config: DecoderConfig, head_name: str, *, attention_bias: bool, tied: bool
) -> DecoderWeights[Parts]:
    hidden, inner = config.hidden_size, config.intermediate_size
    split = functools.partial(head_by_head, heads=config.num_heads)

    def layer(index: int) -> LayerWeights[Parts]:
        here = f"gpt_neox.layers.{index}."
        qkv, bias = f"{here}attention.query_key_value", attention_bias
        return LayerWeights(
            attention_norm=checkpoint.norm(f"{here}input_layernorm", hidden, bias=True),
            qkv=Affine(
                (StoredTensor(f"{qkv}.weight", (3 * hidden, hidden), split),),
                (StoredTensor(f"{qkv}.bias", (3 * hidden,), split),) if bias else None,
            ),
            attention_output=checkpoint.linear(f"{here}attention.dense", hidden, hidden, bias=bias),
            mlp_norm=checkpoint.norm(f"{here}post_attention_layernorm", hidden, bias=True),
            up=checkpoint.linear(f"{here}mlp.dense_h_to_4h", inner, hidden, bias=True),
            down=checkpoint.linear(f"{here}mlp.dense_4h_to_h", hidden, inner, bias=True),
        )

    table = checkpoint.matrix("gpt_neox.embed_in.weight", config.vocabulary_size, hidden)
    head = checkpoint.matrix(head_name, config.vocabulary_size, hidden)
    return DecoderWeights(
        embedding=table,
        layers=tuple(layer(index) for index in range(config.num_layers)),
        final_norm=checkpoint.norm("gpt_neox.final_layer_norm", hidden, bias=True),
        head=Affine(table if tied else head),
    )
