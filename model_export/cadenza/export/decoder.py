"""The decoder in TensorFlow, defined once: pure functions on rows of hidden states.

The SavedModel's signatures and the CPU program's segments are all composed of these, cut at attention.
Rows are the tokens of all sequences, one below the other: [R, ...]. Only attention knows of sequences.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from cadenza.export import precision
from cadenza.export.model import Activation, Affine, DecoderConfig, DecoderWeights, LayerWeights, Norm

Layer = LayerWeights[tf.Tensor]
Weights = DecoderWeights[tf.Tensor]


class LayerCache(NamedTuple):
    """What attention keeps of the tokens before: keys, rotated, and values, [B, kv_heads, S, head_dim]."""

    keys: tf.Tensor
    values: tf.Tensor


Cache = tuple[LayerCache, ...]
"""One LayerCache a layer."""

ExtendLayer = Callable[[Layer, LayerCache, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, LayerCache]]
"""`extend_layer` of some decoder: layer, its cache, hidden states, positions, visible."""

Extend = Callable[[Cache, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, Cache]]
"""`extend` of some decoder: cache, token ids, positions, visible -> hidden states, longer cache."""


def norm(config: DecoderConfig, weights: Affine[tf.Tensor], hidden: tf.Tensor) -> tf.Tensor:
    """RMSNorm (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450) over the last axis."""
    if config.norm is Norm.LAYER:
        hidden = hidden - tf.reduce_mean(hidden, axis=-1, keepdims=True)
    return rms_norm(config, weights, hidden)


def rms_norm(config: DecoderConfig, weights: Affine[tf.Tensor], hidden: tf.Tensor) -> tf.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * gain (+ bias) over the last axis."""
    mean_square = tf.reduce_mean(tf.square(hidden), axis=-1, keepdims=True)
    normed = hidden * tf.math.rsqrt(mean_square + config.norm_epsilon) * weights.weight
    return normed if weights.bias is None else normed + weights.bias


def linear(weights: Affine[tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
    """[R, inputs] by a matrix [outputs, inputs] (+ bias) -> [R, outputs]."""
    product = precision.multiply(rows, weights.weight)
    return product if weights.bias is None else product + weights.bias


def embed(weights: Weights, token_ids: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Token ids and positions, both [R] -> hidden states float32 [R, hidden_size]."""
    hidden = precision.look_up(weights.embedding, token_ids)
    if weights.positions is None:
        return hidden
    return hidden + precision.look_up(weights.positions, positions)


def attention_input(config: DecoderConfig, layer: Layer, hidden: tf.Tensor) -> tf.Tensor:
    """Hidden states -> q, k and v side by side, before the rotary embedding: [R, qkv_size]."""
    qkv = linear(layer.qkv, norm(config, layer.attention_norm, hidden))
    if layer.query_norm is None or layer.key_norm is None:
        return qkv
    query, key, value = tf.split(qkv, [config.query_size, config.kv_size, config.kv_size], axis=-1)
    query = _norm_heads(config, layer.query_norm, query, config.num_heads)
    key = _norm_heads(config, layer.key_norm, key, config.num_kv_heads)
    return tf.concat([query, key, value], axis=-1)


def after_attention(
    config: DecoderConfig, layer: Layer, hidden: tf.Tensor, attention: tf.Tensor
) -> tf.Tensor:
    """The layer's second part: output projection and MLP, each added to the residual stream."""
    between = hidden + linear(layer.attention_output, attention)
    inner = mlp_inner(config, layer, hidden if config.parallel_residual else between)
    return between + linear(layer.down, inner)


def mlp_inner(config: DecoderConfig, layer: Layer, hidden: tf.Tensor) -> tf.Tensor:
    """What the MLP reads -> the input of down: [R, intermediate_size]. Gated: arXiv:2002.05202."""
    normed = norm(config, layer.mlp_norm, hidden)
    up = linear(layer.up, normed)
    if layer.gate is None:
        return activation(config, up)
    return activation(config, linear(layer.gate, normed)) * up


def activation(config: DecoderConfig, x: tf.Tensor) -> tf.Tensor:
    """SiLU, or GELU (arXiv:1606.08415) as it is or by tanh."""
    if config.activation is Activation.SILU:
        return x * tf.sigmoid(x)
    return tf.nn.gelu(x, approximate=config.activation is Activation.GELU_TANH)


def rotate(config: DecoderConfig, heads: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Half-split rotary embedding (arXiv:2104.09864): [B, T, heads, head_dim] at positions [B or 1, T]."""
    half = len(config.inverse_frequencies)
    if half == 0:
        return heads
    frequencies = tf.constant(config.inverse_frequencies, tf.float32)
    angles = tf.cast(positions, tf.float32)[:, :, None, None] * frequencies
    cosine, sine = tf.cos(angles), tf.sin(angles)
    first, second, rest = tf.split(heads, [half, half, config.head_dim - 2 * half], axis=-1)
    return tf.concat([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)


def attend(config: DecoderConfig, query: tf.Tensor, cache: LayerCache, visible: tf.Tensor) -> tf.Tensor:
    """Grouped-query attention (arXiv:2305.13245) of each query to the cached positions it may see.

    Args:
        config: the decoder's sizes.
        query: [B, T, heads, head_dim], rotated.
        cache: of S positions.
        visible: bool, [B or 1, T, S]; a query that sees no position gets the mean of all values.

    Returns:
        [B * T, query_size].
    """
    batch, length = tf.unstack(tf.shape(query)[:2])
    kv_heads, group = config.num_kv_heads, config.num_heads // config.num_kv_heads
    grouped = tf.reshape(query, [batch, length, kv_heads, group, config.head_dim])
    rows = tf.reshape(
        tf.transpose(grouped, [0, 2, 3, 1, 4]), [batch, kv_heads, group * length, config.head_dim]
    )
    scores = precision.matmul(rows * config.attention_scale, cache.keys, transpose_b=True)
    scores = tf.reshape(scores, [batch, kv_heads, group, length, tf.shape(cache.keys)[2]])
    scores = tf.where(visible[:, None, None], scores, scores.dtype.min)
    shares = tf.reshape(tf.nn.softmax(scores), [batch, kv_heads, group * length, tf.shape(cache.keys)[2]])
    mixed = precision.matmul(shares, cache.values)
    mixed = tf.reshape(mixed, [batch, kv_heads, group, length, config.head_dim])
    return tf.reshape(tf.transpose(mixed, [0, 3, 1, 2, 4]), [batch * length, config.query_size])


def query_and_cache(
    config: DecoderConfig, qkv: tf.Tensor, positions: tf.Tensor, batch: tf.Tensor
) -> tuple[tf.Tensor, LayerCache]:
    """Rows of q, k and v as attention takes them.

    Args:
        config: the decoder's sizes.
        qkv: [B * T, qkv_size], as attention_input gives it.
        positions: int32 [B or 1, T].
        batch: int32 scalar, B.

    Returns:
        Queries, rotated, [B, T, heads, head_dim], and the T tokens' cache.
    """
    heads, kv_heads = config.num_heads, config.num_kv_heads
    split = tf.reshape(qkv, [batch, tf.shape(positions)[1], heads + 2 * kv_heads, config.head_dim])
    query, key, value = tf.split(split, [heads, kv_heads, kv_heads], axis=2)
    keys = tf.transpose(rotate(config, key, positions), [0, 2, 1, 3])
    return rotate(config, query, positions), LayerCache(keys, tf.transpose(value, [0, 2, 1, 3]))


def causal_attention(config: DecoderConfig, qkv: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Attention of each row to itself and the rows before it in its sequence.

    Args:
        config: the decoder's sizes.
        qkv: [batch * length, qkv_size], as attention_input gives it.
        batch: int32 scalar, sequences.
        length: int32 scalar, tokens of each.

    Returns:
        [batch * length, query_size].
    """
    positions = tf.range(length)
    query, cache = query_and_cache(config, qkv, positions[None], batch)
    return attend(config, query, cache, (positions[None, :] <= positions[:, None])[None])


def empty_cache(config: DecoderConfig, batch: tf.Tensor) -> Cache:
    """The cache of `batch` sequences (int32 scalar) without any token."""
    nothing = tf.zeros([batch, config.num_kv_heads, 0, config.head_dim])
    return (LayerCache(nothing, nothing),) * config.num_layers


def extend(
    config: DecoderConfig,
    weights: Weights,
    cache: Cache,
    token_ids: tf.Tensor,
    positions: tf.Tensor,
    visible: tf.Tensor,
    advance: ExtendLayer | None = None,
) -> tuple[tf.Tensor, Cache]:
    """Advances every sequence by the same number of tokens, prompt or generated alike.

    Args:
        config: the decoder's sizes.
        weights: float32 or bfloat16; computed with as float32, widened one layer at a time.
        cache: of S positions.
        token_ids: int32 [B, T].
        positions: int32 [B, T].
        visible: bool [B or 1, T, S + T], which positions of the cache to be each token sees.
        advance: takes the hidden states through a layer; by default `extend_layer`.

    Returns:
        Hidden states before the final norm [B * T, hidden_size], and the cache of S + T positions.
    """
    advance = advance or functools.partial(extend_layer, config)
    hidden = embed(weights, tf.reshape(token_ids, [-1]), tf.reshape(positions, [-1]))
    longer = []
    for layer, before in zip(weights.layers, cache, strict=True):
        hidden, new = advance(layer, before, hidden, positions, visible)
        longer.append(new)
    return hidden, tuple(longer)


def extend_layer(
    config: DecoderConfig,
    stored: Layer,
    before: LayerCache,
    hidden: tf.Tensor,
    positions: tf.Tensor,
    visible: tf.Tensor,
) -> tuple[tf.Tensor, LayerCache]:
    """One layer of `extend`: hidden states [B * T, hidden_size] to the same, and the layer's longer cache."""
    layer = stored.map(_float32)
    batch = tf.shape(positions)[0]
    query, new = query_and_cache(config, attention_input(config, layer, hidden), positions, batch)
    keys, values = tf.concat([before.keys, new.keys], 2), tf.concat([before.values, new.values], 2)
    cache = LayerCache(keys, values)
    return after_attention(config, layer, hidden, attend(config, query, cache, visible)), cache


def head(config: DecoderConfig, weights: Weights, hidden: tf.Tensor) -> tf.Tensor:
    """Hidden states [R, hidden_size] -> next-token logits float32 [R, V]."""
    normed = norm(config, weights.final_norm.map(_float32, "final_norm"), hidden)
    return linear(weights.head.map(_float32, "head"), normed)


def logits(
    config: DecoderConfig, weights: Weights, token_ids: tf.Tensor, advance: Extend | None = None
) -> tf.Tensor:
    """Token ids int32 [B, T] -> next-token logits float32 [B, T, V], by `advance` where it is given."""
    advance = advance or functools.partial(extend, config, weights)
    batch, length = tf.unstack(tf.shape(token_ids))
    positions = tf.range(length)
    visible = (positions[None, :] <= positions[:, None])[None]
    everywhere = tf.tile(positions[None], [batch, 1])
    hidden, _ = advance(empty_cache(config, batch), token_ids, everywhere, visible)
    return tf.reshape(head(config, weights, hidden), [batch, length, config.vocabulary_size])


def _float32(_name: str, weight: tf.Tensor) -> tf.Tensor:
    return tf.cast(weight, tf.float32)


def _norm_heads(config: DecoderConfig, weights: Affine[tf.Tensor], rows: tf.Tensor, heads: int) -> tf.Tensor:
    normed = rms_norm(config, weights, tf.reshape(rows, [-1, heads, config.head_dim]))
    return tf.reshape(normed, [-1, heads * config.head_dim])
