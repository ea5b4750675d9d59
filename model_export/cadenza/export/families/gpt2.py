"""GPT-2: learned positions, LayerNorm, an MLP with GELU, biases everywhere."""

import numpy as np

from cadenza.export.families import checkpoint, layer_norm_gguf
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
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder

_FAMILY = "gpt2"
_GGUF_SETTINGS = {
    "attention.head_count",
    "attention.layer_norm_epsilon",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
}


def from_hugging_face(source: HuggingFaceFolder) -> Blueprint:
    """GPT2LMHeadModel, whose matrices lie inputs by outputs (Conv1D).

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    settings = source.settings
    settings.require("scale_attn_weights", True)
    settings.require("scale_attn_by_inverse_layer_idx", False)
    settings.require("add_cross_attention", False)
    settings.require("quantization_config")
    hidden = settings.integer("n_embd", high=checkpoint.MAX_SIZE)
    heads = settings.integer("n_head", high=checkpoint.MAX_HEADS)
    head_dim = checkpoint.head_dim(settings, hidden, heads, "n_head")
    config = DecoderConfig(
        num_layers=settings.integer("n_layer", high=checkpoint.MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer("n_inner", 4 * hidden, high=4 * checkpoint.MAX_SIZE),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        vocabulary_size=settings.integer("vocab_size", high=checkpoint.MAX_VOCABULARY),
        max_context=settings.integer("n_positions", high=checkpoint.MAX_CONTEXT),
        norm_epsilon=settings.number("layer_norm_epsilon", 1e-5),
        attention_scale=head_dim**-0.5,
        norm=Norm.LAYER,
        activation=checkpoint.activation(settings, "activation_function", "gelu_new"),
    )
    prefix = "" if "wte.weight" in source.shapes else "transformer."
    tied = settings.boolean("tie_word_embeddings", True)
    weights = _hugging_face_weights(config, prefix, tied=tied)
    copies = checkpoint.tied_copies(source, weights, "lm_head.weight")
    masks = (".attn.bias", ".attn.masked_bias")
    used = frozenset(name for name in source.shapes if name.endswith(masks))
    return Blueprint(_FAMILY, config, weights, copies, used)


def from_gguf(source: GgufFile) -> Blueprint:
    """The architecture `gpt2`.

    Raises:
        UnsupportedModelError: a setting cannot be exported exactly.
    """
    settings, prefix = source.settings, f"{_FAMILY}."
    checkpoint.refuse_unknown(settings, prefix, _GGUF_SETTINGS)
    hidden = settings.integer(f"{prefix}embedding_length", high=checkpoint.MAX_SIZE)
    heads = settings.integer(f"{prefix}attention.head_count", high=checkpoint.MAX_HEADS)
    head_dim = checkpoint.head_dim(settings, hidden, heads, f"{prefix}attention.head_count")
    config = DecoderConfig(
        num_layers=settings.integer(f"{prefix}block_count", high=checkpoint.MAX_LAYERS),
        hidden_size=hidden,
        intermediate_size=settings.integer(
            f"{prefix}feed_forward_length", 4 * hidden, high=4 * checkpoint.MAX_SIZE
        ),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        vocabulary_size=checkpoint.vocabulary(source, "token_embd.weight"),
        max_context=settings.integer(f"{prefix}context_length", high=checkpoint.MAX_CONTEXT),
        norm_epsilon=settings.number(f"{prefix}attention.layer_norm_epsilon"),
        attention_scale=head_dim**-0.5,
        norm=Norm.LAYER,
        activation=Activation.GELU_TANH,
    )
    return Blueprint(_FAMILY, config, layer_norm_gguf.weights(source, config, positions=True))


def _hugging_face_weights(config: DecoderConfig, prefix: str, *, tied: bool) -> DecoderWeights[Parts]:
    hidden, inner = config.hidden_size, config.intermediate_size

    def layer(index: int) -> LayerWeights[Parts]:
        here = f"{prefix}h.{index}."
        return LayerWeights(
            attention_norm=checkpoint.norm(f"{here}ln_1", hidden, bias=True),
            qkv=_conv1d(f"{here}attn.c_attn", 3 * hidden, hidden),
            attention_output=_conv1d(f"{here}attn.c_proj", hidden, hidden),
            mlp_norm=checkpoint.norm(f"{here}ln_2", hidden, bias=True),
            up=_conv1d(f"{here}mlp.c_fc", inner, hidden),
            down=_conv1d(f"{here}mlp.c_proj", hidden, inner),
        )

    table = checkpoint.matrix(f"{prefix}wte.weight", config.vocabulary_size, hidden)
    head = checkpoint.matrix("lm_head.weight", config.vocabulary_size, hidden)
    return DecoderWeights(
        embedding=table,
        positions=checkpoint.matrix(f"{prefix}wpe.weight", config.max_context, hidden),
        layers=tuple(layer(index) for index in range(config.num_layers)),
        final_norm=checkpoint.norm(f"{prefix}ln_f", hidden, bias=True),
        head=Affine(table if tied else head),
    )


def _conv1d(name: str, rows: int, columns: int) -> Affine[Parts]:
    weight = StoredTensor(f"{name}.weight", (columns, rows), _transposed)
    return Affine((weight,), checkpoint.vector(f"{name}.bias", rows))


def _transposed(array: FloatArray) -> FloatArray:
    return np.ascontiguousarray(array.T)
