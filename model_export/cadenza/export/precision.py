"""Products with weights in float32, bfloat16, or int8 with a scale per row: the step programs' precisions.

Sums are float32 whatever the factors are.
"""

from typing import NamedTuple, TypeAlias

import tensorflow as tf

_LARGEST_INT8 = 127.0


class Quantised(NamedTuple):
    """A matrix in int8: each number stands for itself times the scale of its row."""

    numbers: tf.Tensor
    """int8 [outputs, inputs]."""
    scales: tf.Tensor
    """float32 [outputs]."""


Rows: TypeAlias = tf.Tensor | Quantised
"""A matrix [outputs, inputs], or a table of rows: float32, bfloat16 or quantised."""


class Transposed(NamedTuple):
    """A matrix that lies as [inputs, outputs]: XLA on a CPU repacks the other order at each product."""

    columns: Rows
    """float32 or bfloat16, or int8 numbers of this shape with scales [outputs]."""


Matrix: TypeAlias = Rows | Transposed
"""What rows are multiplied by."""


def quantise(matrix: tf.Tensor) -> Quantised:
    """Rounds a float32 matrix [outputs, inputs]; the largest number of a row becomes 127 or -127."""
    largest = tf.reduce_max(tf.abs(matrix), axis=-1)
    scales = tf.where(largest > 0, largest / _LARGEST_INT8, 1.0)
    return Quantised(tf.cast(tf.round(matrix / scales[:, None]), tf.int8), scales)


def multiply(rows: tf.Tensor, matrix: Matrix) -> tf.Tensor:
    """float32 [R, inputs] by a matrix of as many inputs -> float32 [R, outputs].

    The rows are rounded to the matrix's number format; beside int8 they, and the factors, are bfloat16.
    """
    if isinstance(matrix, Transposed):
        return _multiply(rows, matrix.columns, transpose_b=False)
    return _multiply(rows, matrix, transpose_b=True)


def _multiply(rows: tf.Tensor, matrix: Rows, *, transpose_b: bool) -> tf.Tensor:
    if isinstance(matrix, Quantised):
        numbers = tf.cast(matrix.numbers, tf.bfloat16)
        return matmul(rows, numbers, transpose_b=transpose_b) * matrix.scales
    return matmul(rows, matrix, transpose_b=transpose_b)


def matmul(left: tf.Tensor, right: tf.Tensor, *, transpose_b: bool = False) -> tf.Tensor:
    """Batched product, float32 by the number format of `right`, summed in float32."""
    rounded = tf.cast(left, right.dtype)
    return tf.matmul(rounded, right, transpose_b=transpose_b, output_type=tf.float32)


def look_up(table: Rows, indices: tf.Tensor) -> tf.Tensor:
    """Rows of a table [N, width] -> float32 [R, width], for indices int32 [R].

    A variable is read whole, as a sparse read makes its later dense reads copy.
    """
    if isinstance(table, Quantised):
        rows = tf.cast(tf.gather(table.numbers, indices), tf.float32)
        return rows * tf.gather(table.scales, indices)[:, None]
    return tf.cast(tf.gather(tf.convert_to_tensor(table), indices), tf.float32)
