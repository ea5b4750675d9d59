"""Chooses tokens from rows of logits, in the graph: the same rules and random numbers as on the CPU.

N rows, V tokens. The order: divide by the temperature, softmax, keep the top_k, of those the top_p, of those
the min_p, and draw. Biases and penalties have altered the logits before (alteration.py). Sums are float64,
so the order in which a device adds does not show.
"""

from typing import NamedTuple

import tensorflow as tf

from cadenza.server.runner.base import NOT_FINITE
from cadenza.server.runner.tensorflow.ranking import greatest_first

_RANKS = 1024
"""So many of the heaviest tokens are sorted; all only where they do not decide a row."""
_SEGMENT = 128
"""Tokens that are summed up together, to find the drawn one among few sums first."""


class Draws(NamedTuple):
    """How each row draws: all [N]. Temperature 0 takes the greatest logit."""

    temperature: tf.Tensor
    """float32, and so are top_p and min_p."""
    top_p: tf.Tensor
    min_p: tf.Tensor
    top_k: tf.Tensor
    """int32, and so are choice and position."""
    choice: tf.Tensor
    position: tf.Tensor
    """Of the token that is drawn."""
    seed: tf.Tensor
    """uint64."""


def greatest(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of each row [N, V] the greatest logit, and its first index, int32.

    NOT_FINITE is the index where a row holds NaN or +infinity, or nothing above -infinity.
    """
    highest = tf.reduce_max(logits, axis=-1)
    indices = tf.range(logits.shape[1])
    first = tf.where(logits == highest[:, None], indices, logits.shape[1])
    usable = tf.reduce_all(logits <= logits.dtype.max, axis=-1) & (highest >= logits.dtype.min)
    return highest, tf.where(usable, tf.reduce_min(first, axis=-1), NOT_FINITE)


def uniform(seed: tf.Tensor, choice: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Numbers in [0, 1), float64 [N], from seeds uint64, choices and positions int32, all [N].

    By SplitMix64's mixer (Steele et al. 2014), bit for bit as the CPU runner's.
    """
    z = seed + (tf.cast(position, tf.uint64) + _word(1)) * _word(0x9E3779B97F4A7C15)
    z += tf.cast(choice, tf.uint64) * _word(0xD1342543DE82EF95)
    for _ in range(2):
        z = _mix(z, 30) * _word(0xBF58476D1CE4E5B9)
        z = _mix(z, 27) * _word(0x94D049BB133111EB)
        z = _mix(z, 31)
    return tf.cast(tf.bitwise.right_shift(z, _word(11)), tf.float64) * 2.0**-53


def sample(logits: tf.Tensor, highest: tf.Tensor, best: tf.Tensor, draws: Draws) -> tf.Tensor:
    """The next token of each row, int32 [N]; `best` where that is NOT_FINITE or the temperature is 0.

    logits: float32 [N, V]; highest and best: what `greatest` says of them.
    """
    heat = tf.where(draws.temperature > 0, draws.temperature, 1.0)
    weights = tf.exp((logits - highest[:, None]) * (1.0 / heat)[:, None])
    draw = uniform(draws.seed, draws.choice, draws.position)
    segments = tf.reduce_sum(_segmented(weights), axis=-1)
    total = tf.reduce_sum(segments, axis=-1)
    anything = _draw_any(weights, segments, draw * total, best)
    truncates = (draws.top_k > 0) | (draws.top_p < 1) | (draws.min_p > 0)
    drawn = tf.cond(
        tf.reduce_any(truncates),
        lambda: tf.where(truncates, _draw_truncated(weights, total, draw, draws), anything),
        lambda: anything,
    )
    return tf.where((best == NOT_FINITE) | (draws.temperature == 0), best, drawn)


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def _mix(z: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _word(shift)))


def _segmented(weights: tf.Tensor) -> tf.Tensor:
    """[N, V] as float64 [N, ceil(V / 128), 128], zeros at the end."""
    padding = -weights.shape[1] % _SEGMENT
    padded = tf.pad(weights, [[0, 0], [0, padding]])
    return tf.reshape(tf.cast(padded, tf.float64), [weights.shape[0], -1, _SEGMENT])


def _draw_any(weights: tf.Tensor, segments: tf.Tensor, target: tf.Tensor, best: tf.Tensor) -> tf.Tensor:
    """The first token at which the sum of weights exceeds `target`, float64 [N]; segments: their sums."""
    sums = tf.cumsum(segments, axis=-1)
    segment = tf.minimum(_count(sums <= target[:, None]), segments.shape[1] - 1)
    before = tf.gather(tf.pad(sums, [[0, 0], [1, 0]]), segment, batch_dims=1)
    own = tf.gather(_segmented(weights), segment, batch_dims=1)
    inside = before[:, None] + tf.cumsum(own, axis=-1)
    offset = _count(inside <= target[:, None])
    token = segment * _SEGMENT + offset
    return tf.where((offset < _SEGMENT) & (token < weights.shape[1]), token, best)


def _draw_truncated(weights: tf.Tensor, total: tf.Tensor, draw: tf.Tensor, draws: Draws) -> tf.Tensor:
    vocabulary = weights.shape[1]
    few = min(_RANKS, vocabulary)
    token, undecided = _draw_ranked(weights, total, draw, draws, few)
    if few == vocabulary:
        return token
    truncates = (draws.top_k > 0) | (draws.top_p < 1) | (draws.min_p > 0)
    return tf.cond(
        tf.reduce_any(truncates & undecided),
        lambda: _draw_ranked(weights, total, draw, draws, vocabulary)[0],
        lambda: token,
    )


def _draw_ranked(
    weights: tf.Tensor, total: tf.Tensor, draw: tf.Tensor, draws: Draws, ranks: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Tokens drawn among the `ranks` heaviest, int32 [N], and whether others may be kept too."""
    ordered, token_ids = greatest_first(weights, ranks)
    sums = tf.cumsum(tf.cast(ordered, tf.float64), axis=-1)
    rank = tf.range(ranks)
    limited = (draws.top_k > 0) & (draws.top_k < weights.shape[1])
    limit = tf.where(limited, draws.top_k, weights.shape[1])
    kept = rank < limit[:, None]
    last = tf.minimum(limit, ranks) - 1
    mass = tf.where(limited, tf.gather(sums, last, batch_dims=1), total) * tf.cast(draws.top_p, tf.float64)
    before = tf.pad(sums[:, :-1], [[0, 0], [1, 0]])
    kept &= (before < mass[:, None]) | (draws.top_p >= 1)[:, None]
    kept &= (ordered >= draws.min_p[:, None]) | (rank == 0)
    count = _count(kept)
    target = draw * tf.gather(sums, count - 1, batch_dims=1)
    drawn = _count((sums <= target[:, None]) & kept)
    drawn = tf.where(drawn < count, drawn, 0)
    lightest = tf.gather(ordered, count - 1, batch_dims=1)
    undecided = (lightest > 0) & (lightest <= ordered[:, -1]) | limited & (limit > ranks)
    return tf.gather(token_ids, drawn, batch_dims=1), undecided


def _count(flags: tf.Tensor) -> tf.Tensor:
    """How many of each row are true, int32 [N]."""
    return tf.reduce_sum(tf.cast(flags, tf.int32), axis=-1)
