"""The decoder in TensorFlow, defined once: pure functions on rows of hidden states.

The SavedModel's `logits` and the CPU program's segments are both composed of these, cut at attention.
Rows are the tokens of all sequences, one below the other: [R, ...]. Only attention knows of sequences.
"""

import tensorflow as tf

from cadenza.export.model import DecoderConfig, DecoderWeights, LayerWeights


def rms_norm(config: DecoderConfig, gain: tf.Tensor, hidden: tf.Tensor) -> tf.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * gain over the last axis (arXiv:1910.07467)."""
    mean_square = tf.reduce_mean(tf.square(hidden), axis=-1, keepdims=True)
    return hidden * tf.math.rsqrt(mean_square + config.norm_epsilon) * gain


def linear(weight: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """[R, inputs] by weight [outputs, inputs] -> [R, outputs]."""
    return tf.matmul(rows, weight, transpose_b=True)


def attention_input(config: DecoderConfig, layer: LayerWeights[tf.Tensor], hidden: tf.Tensor) -> tf.Tensor:
    """Hidden states -> q, k and v side by side, before the rotary embedding: [R, qkv_size]."""
    return linear(layer.qkv, rms_norm(config, layer.attention_norm, hidden))


def after_attention(
    config: DecoderConfig, layer: LayerWeights[tf.Tensor], hidden: tf.Tensor, attention: tf.Tensor
) -> tf.Tensor:
    """The layer's second part: output projection, residual, norm, SwiGLU (arXiv:2002.05202), residual."""
    hidden = hidden + linear(layer.attention_output, attention)
    return hidden + linear(layer.down, mlp_inner(config, layer, hidden))


def mlp_inner(config: DecoderConfig, layer: LayerWeights[tf.Tensor], hidden: tf.Tensor) -> tf.Tensor:
    """Hidden states after attention -> SwiGLU's product, the input of down: [R, intermediate_size]."""
    normed = rms_norm(config, layer.mlp_norm, hidden)
    gate = linear(layer.gate, normed)
    return gate * tf.sigmoid(gate) * linear(layer.up, normed)


def rotate(config: DecoderConfig, heads: tf.Tensor) -> tf.Tensor:
    """Rotary embedding, half-split, of [B, T, heads, head_dim] at positions 0 ... T-1 (arXiv:2104.09864)."""
    frequencies = tf.constant(config.inverse_frequencies, tf.float32)
    positions = tf.range(tf.shape(heads)[1])
    angles = (tf.cast(positions, tf.float32)[:, None] * frequencies)[None, :, None, :]
    cosine, sine = tf.cos(angles), tf.sin(angles)
    half = len(config.inverse_frequencies)
    first, second, rest = tf.split(heads, [half, half, config.head_dim - 2 * half], axis=-1)
    return tf.concat([first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1)


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
    kv_heads, group = config.num_kv_heads, config.num_heads // config.num_kv_heads
    sequences = tf.reshape(qkv, [batch, length, config.num_heads + 2 * kv_heads, config.head_dim])
    query, key, value = tf.split(sequences, [config.num_heads, kv_heads, kv_heads], axis=2)
    query = tf.reshape(rotate(config, query), [batch, length, kv_heads, group, config.head_dim])
    scores = tf.einsum("btkgd,bskd->bkgts", query, rotate(config, key)) * config.attention_scale
    positions = tf.range(length)
    visible = positions[None, :] <= positions[:, None]
    shares = tf.nn.softmax(tf.where(visible, scores, scores.dtype.min))
    return tf.reshape(tf.einsum("bkgts,bskd->btkgd", shares, value), [batch * length, config.query_size])


def logits(config: DecoderConfig, weights: DecoderWeights[tf.Tensor], token_ids: tf.Tensor) -> tf.Tensor:
    """Token ids int32 [B, T] -> next-token logits float32 [B, T, V]."""
    batch, length = tf.unstack(tf.shape(token_ids))
    hidden = tf.gather(weights.embedding, tf.reshape(token_ids, [-1]))
    for layer in weights.layers:
        attention = causal_attention(config, attention_input(config, layer, hidden), batch, length)
        hidden = after_attention(config, layer, hidden, attention)
    rows = linear(weights.head, rms_norm(config, weights.final_norm, hidden))
    return tf.reshape(rows, [batch, length, config.vocabulary_size])
