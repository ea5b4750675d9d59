"""Alters rows of logits before a token is chosen, and tells log-probabilities: in the graph.

N rows, V tokens, H positions of history, K biases.
"""

from typing import NamedTuple

import tensorflow as tf

from cadenza.server.runner.base import MOST_ALTERNATIVES, NO_TOKEN
from cadenza.server.runner.tensorflow.ranking import greatest_first


class Alterations(NamedTuple):
    """What alters each row's logits."""

    penalties: tf.Tensor
    """float32 [N, 3]: repetition, presence, frequency."""
    history: tf.Tensor
    """int32 [N, H], V behind the last token."""
    prompt_lengths: tf.Tensor
    """int32 [N]: how many of history are the prompt's."""
    bias_ids: tf.Tensor
    """int32 [N, K], each once in a row, V behind the last."""
    biases: tf.Tensor
    """float32 [N, K]"""


class Logprobs(NamedTuple):
    """Log-probabilities of a token, float64 [N], and of the most probable ones, [N, A].

    alternatives: int32, most probable first, ties by lower id; NO_TOKEN where the logit is -infinity.
    """

    logprobs: tf.Tensor
    alternatives: tf.Tensor
    alternative_logprobs: tf.Tensor


def altered(logits: tf.Tensor, alterations: Alterations) -> tf.Tensor:
    """float32 [N, V]: biases added, then penalties taken, by the formulas of SamplingParams.

    Of each token of the history a positive logit is divided by the repetition penalty, another multiplied
    (arXiv:1909.05858, section 4.1). Then each token after the prompt loses presence + frequency * its count.
    """
    rows, vocabulary = logits.shape
    biased = logits + _scattered(alterations.bias_ids, alterations.biases, vocabulary)
    position = tf.range(alterations.history.shape[1])
    generated = tf.cast(position >= alterations.prompt_lengths[:, None], tf.float32)
    seen = _scattered(alterations.history, tf.ones_like(generated), vocabulary) > 0
    counts = tf.cast(_scattered(alterations.history, generated, vocabulary), tf.float64)
    repetition, presence, frequency = tf.unstack(
        tf.cast(tf.reshape(alterations.penalties, [rows, 3, 1]), tf.float64), axis=1
    )
    values = tf.cast(biased, tf.float64)
    repeated = tf.where(values > 0, values / repetition, values * repetition)
    values = tf.where(seen, repeated, values)
    values -= tf.where(counts > 0, presence + frequency * counts, 0.0)
    return tf.cast(values, tf.float32)


def log_probabilities(logits: tf.Tensor, highest: tf.Tensor, token_ids: tf.Tensor) -> Logprobs:
    """The log-softmax of given tokens, int32 [N], and of the most probable ones.

    logits: float32 [N, V]; highest: the greatest of each row, [N].
    """
    vocabulary = logits.shape[1]
    shares = tf.cast(tf.exp(logits - highest[:, None]), tf.float64)
    total = tf.cast(highest, tf.float64) + tf.math.log(tf.reduce_sum(shares, axis=-1))
    own = tf.gather(logits, tf.clip_by_value(token_ids, 0, vocabulary - 1), batch_dims=1)
    best, alternatives = greatest_first(logits, min(MOST_ALTERNATIVES, vocabulary))
    return Logprobs(
        logprobs=tf.cast(own, tf.float64) - total,
        alternatives=tf.where(best >= logits.dtype.min, alternatives, NO_TOKEN),
        alternative_logprobs=tf.cast(best, tf.float64) - total[:, None],
    )


def _scattered(token_ids: tf.Tensor, values: tf.Tensor, vocabulary: int) -> tf.Tensor:
    """[N, V]: the sums of values by token; those of token V are dropped."""
    rows = token_ids.shape[0]
    indices = token_ids + (vocabulary + 1) * tf.range(rows)[:, None]
    flat = tf.zeros([rows * (vocabulary + 1)], values.dtype)
    sums = tf.tensor_scatter_nd_add(flat, tf.reshape(indices, [-1, 1]), tf.reshape(values, [-1]))
    return tf.reshape(sums, [rows, vocabulary + 1])[:, :vocabulary]
