"""How a token is chosen from logits, in plain TensorFlow operations: by the rules of the server's sampler.

The order: divide by the temperature, softmax, keep the top_k, of those the top_p, draw. The random number
depends on (seed, position) alone, so a row's tokens do not depend on its batch.
"""

from typing import NamedTuple

import tensorflow as tf

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


class SamplingInputs(NamedTuple):
    """How each row's tokens are chosen."""

    temperature: tf.Tensor
    """float32 [B]; 0 is greedy."""
    top_k: tf.Tensor
    """int32 [B]; 0 keeps all tokens."""
    top_p: tf.Tensor
    """float32 [B]; 1 keeps all tokens."""
    seed: tf.Tensor
    """int64 [B]."""


def greedy(batch: tf.Tensor) -> SamplingInputs:
    """The most probable token in each of `batch` rows (int32 scalar)."""
    return SamplingInputs(
        temperature=tf.zeros([batch]),
        top_k=tf.zeros([batch], tf.int32),
        top_p=tf.ones([batch]),
        seed=tf.zeros([batch], tf.int64),
    )


def choose(logits: tf.Tensor, inputs: SamplingInputs, position: tf.Tensor) -> tf.Tensor:
    """One token id for each row, int32 [B].

    Args:
        logits: float32 [B, V].
        inputs: how to choose.
        position: int32 [B], of the token to be chosen, in its sequence.
    """
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    sampled = inputs.temperature > 0

    def draw() -> tf.Tensor:
        return tf.where(sampled, _draw(logits, inputs, position), best)

    return tf.cond(tf.reduce_any(sampled), draw, lambda: best)


def uniform(seed: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Numbers in [0, 1), float64 [B], by SplitMix64's mixer (Steele et al. 2014), twice."""
    step = tf.cast(position, tf.uint64) + tf.constant(1, tf.uint64)
    z = tf.bitcast(seed, tf.uint64) + step * tf.constant(_GAMMA, tf.uint64)
    for _ in range(2):  # so that close seeds are not close streams
        z = _mixed(z, 30) * tf.constant(_FIRST, tf.uint64)
        z = _mixed(z, 27) * tf.constant(_SECOND, tf.uint64)
        z = _mixed(z, 31)
    bits = tf.bitwise.right_shift(z, tf.constant(11, tf.uint64))
    return tf.cast(tf.bitcast(bits, tf.int64), tf.float64) * 2.0**-53


def _mixed(z: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint64)))


def _draw(logits: tf.Tensor, inputs: SamplingInputs, position: tf.Tensor) -> tf.Tensor:
    batch, vocabulary = tf.unstack(tf.shape(logits))
    temperature = tf.where(inputs.temperature > 0, inputs.temperature, 1.0)
    highest = tf.reduce_max(logits, axis=-1, keepdims=True)
    weights = tf.cast(tf.exp((logits - highest) / temperature[:, None]), tf.float64)
    truncated = (inputs.top_p < 1) | ((inputs.top_k > 0) & (inputs.top_k < vocabulary))
    in_order = tf.tile(tf.range(vocabulary)[None], [batch, 1])
    heaviest_first = tf.argsort(weights, direction="DESCENDING", stable=True)
    order = tf.where(truncated[:, None], heaviest_first, in_order)
    kept = _kept(tf.gather(weights, order, batch_dims=1), inputs, truncated)
    reached = tf.cumsum(kept, axis=-1)
    target = uniform(inputs.seed, position) * reached[:, -1]
    rank = tf.reduce_sum(tf.cast(reached <= target[:, None], tf.int32), axis=-1)
    return tf.gather(order, tf.minimum(rank, vocabulary - 1), batch_dims=1)


def _kept(ordered: tf.Tensor, inputs: SamplingInputs, truncated: tf.Tensor) -> tf.Tensor:
    """Weights [B, V], heaviest first in rows that are truncated, with zeros for those that are not kept."""
    ranks = tf.range(tf.shape(ordered)[1])[None]
    top_k = tf.where(truncated & (inputs.top_k > 0), inputs.top_k, tf.shape(ordered)[1])
    of_top_k = tf.where(ranks < top_k[:, None], ordered, 0.0)
    before = tf.cumsum(of_top_k, axis=-1, exclusive=True)
    mass = tf.cast(inputs.top_p, tf.float64)[:, None] * tf.reduce_sum(of_top_k, axis=-1, keepdims=True)
    return tf.where((inputs.top_p >= 1)[:, None] | (before < mass), of_top_k, 0.0)
