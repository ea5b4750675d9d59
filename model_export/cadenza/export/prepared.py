"""A step program's weights: variables of its own number format, filled once from those of the file.

Until then they take no memory, so an artifact holds every program and a server pays for the one it runs.
"""

import tensorflow as tf

from cadenza.export.model import DecoderWeights, Precision, named
from cadenza.export.precision import Matrix, Quantised, quantise


class PreparedWeights(tf.Module):
    """Weights as one program computes with them; those that the file has in that number format are shared."""

    def __init__(self, stored: DecoderWeights[tf.Variable], precision: Precision) -> None:
        super().__init__(name="weights")
        self._stored = named(stored)
        formats = {name: _number_format(precision, name, variable) for name, variable in self._stored.items()}
        self._own = {
            name: _empty(f"{precision.value}_{name}", variable.shape, formats[name])
            for name, variable in self._stored.items()
            if variable.dtype != formats[name]
        }
        self._scales = {
            name: _empty(f"{precision.value}_{name}_scales", variable.shape[:1], tf.float32)
            for name, variable in self._own.items()
            if variable.dtype == tf.int8
        }

    def fill(self) -> None:
        """Converts what is not shared, one after the other, so that intermediate values are of one weight."""
        done: list[tf.Operation] = []
        for name in self._own:
            with tf.control_dependencies(done):
                done = self._convert(name)

    def release(self) -> None:
        """Frees the file's variables that are not shared; what else reads them fails from then on."""
        for name in self._own:
            variable = self._stored[name]
            nothing = tf.zeros([0] * variable.shape.rank, variable.dtype)
            # The value's shape is hidden from the graph: a variable's static shape would refuse it.
            hidden = tf.raw_ops.PlaceholderWithDefault(input=nothing, shape=None)
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=hidden)

    def read(self) -> dict[str, Matrix]:
        """Every weight by its name, with its whole shape. Fails where `fill` has not run."""
        return {name: self._whole(name) for name in self._stored}

    def _whole(self, name: str) -> Matrix:
        stored, scales = self._stored[name], self._scales.get(name)
        value = tf.ensure_shape(self._own.get(name, stored), stored.shape)
        return value if scales is None else Quantised(value, tf.ensure_shape(scales, stored.shape[:1]))

    def _convert(self, name: str) -> list[tf.Operation]:
        stored, own, scales = self._stored[name], self._own[name], self._scales.get(name)
        if scales is None:
            return [own.assign(tf.cast(stored, own.dtype), read_value=False)]
        quantised = quantise(tf.cast(stored, tf.float32))
        return [
            own.assign(quantised.numbers, read_value=False),
            scales.assign(quantised.scales, read_value=False),
        ]


def _number_format(precision: Precision, name: str, variable: tf.Variable) -> tf.DType:
    """Gains and biases are float32; learned positions, which no product takes, are not quantised."""
    if variable.shape.rank == 1 or precision is Precision.FLOAT32:
        return tf.float32
    return tf.int8 if precision is Precision.INT8 and name != "positions" else tf.bfloat16


def _empty(name: str, shape: tf.TensorShape, dtype: tf.DType) -> tf.Variable:
    """A variable that will have this shape, without a row yet."""
    nothing = tf.zeros([0, *shape[1:]], dtype)
    return tf.Variable(nothing, shape=[None, *shape[1:]], trainable=False, name=name)
