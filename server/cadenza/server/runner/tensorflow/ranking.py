"""The greatest values of rows and where they stand, in an order that leaves nothing open."""

import tensorflow as tf

_LOW = 0xFFFFFFFF


def greatest_first(values: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The `count` greatest of each row [N, V] float32, [N, count], and their indices, int32.

    Equal ones stand in the order of their indices. Where more values equal the last one than there is room
    for, it is open which of them are there, unless count is V: compilers choose as they like.
    """
    vocabulary = values.shape[1]
    if count < vocabulary:
        chosen, indices = tf.math.top_k(values, k=count)
    else:
        chosen, indices = values, tf.range(vocabulary)
    keys = tf.bitwise.left_shift(_ordered_bits(chosen), tf.constant(32, tf.int64))
    keys += tf.cast(vocabulary - indices, tf.int64)
    low = tf.bitwise.bitwise_and(tf.sort(keys, axis=-1, direction="DESCENDING"), _LOW)
    ranked = vocabulary - tf.cast(low, tf.int32)
    return tf.gather(values, ranked, batch_dims=1), ranked


def _ordered_bits(values: tf.Tensor) -> tf.Tensor:
    """int64 that are ordered as the float32 they stand for; both zeros are one."""
    bits = tf.bitcast(tf.where(values == 0, 0.0, values), tf.int32)
    sign = tf.bitwise.right_shift(bits, 31)
    return tf.cast(tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(sign, 0x7FFFFFFF)), tf.int64)
