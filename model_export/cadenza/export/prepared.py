"""A step program's weights: variables of its own number format, filled once from those of the file.

Until then they take no memory, so an artifact holds every program and a server pays for the one it runs.
Matrices that nothing but a product reads are transposed on the way.
"""

from collections.abc import Iterable

import tensorflow as tf

from cadenza.export.model import DecoderWeights, Precision, named
from cadenza.export.precision import Matrix, Quantised, Transposed, quantise

_TABLES = ("embedding", "positions")
"""Looked up by rows."""


class PreparedWeights(tf.Module):
    """Weights as one program computes with them; those that the file has in that form are shared."""

    def __init__(self, stored: DecoderWeights[tf.Variable], precision: Precision) -> None:
        super().__init__(name="weights")
        self._stored = named(stored)
        formats = {name: _number_format(precision, name, variable) for name, variable in self._stored.items()}
        self._transposed = frozenset(
            name
            for name, variable in self._stored.items()
            if variable.shape.rank == 2 and name not in _TABLES
        )
        self._shapes = {
            name: variable.shape[::-1] if name in self._transposed else variable.shape
            for name, variable in self._stored.items()
        }
        self._own = {
            name: _empty(f"{precision.value}_{name}", self._shapes[name], formats[name])
            for name, variable in self._stored.items()
            if variable.dtype != formats[name] or name in self._transposed
        }
        self._rows = {
            name: variable.shape[0] for name, variable in self._stored.items() if formats[name] == tf.int8
        }
        # One variable for the scales of all rows of all matrices: each variable costs an export memory.
        self._scales = _empty(f"{precision.value}_scales", tf.TensorShape([None]), tf.float32)

    def fill(self) -> None:
        """Converts what is not shared, one after the other, so that intermediate values are of one weight."""
        rounded = tf.function(quantise, input_signature=[tf.TensorSpec([None, None])], autograph=False)
        done: list[tf.Operation] = []
        scales = []
        for name, own in self._own.items():
            with tf.control_dependencies(done):
                values = tf.convert_to_tensor(self._stored[name])
                if name in self._rows:
                    values, factors = rounded(tf.cast(values, tf.float32))
                    scales.append(factors)
                if name in self._transposed:
                    values = tf.transpose(values)
                done = [own.assign(tf.cast(values, own.dtype), read_value=False)]
        if scales:
            self._scales.assign(tf.concat(scales, axis=0))

    def release(self) -> None:
        """Frees the file's variables that are not shared; what else reads them fails from then on."""
        unshared = [self._stored[name] for name in self._own]
        # What replaces them has a shape that the graph does not know: it would refuse another than theirs.
        nothing = {
            dtype: tf.raw_ops.PlaceholderWithDefault(input=tf.zeros([0], dtype), shape=None)
            for dtype in {variable.dtype for variable in unshared}
        }
        for variable in unshared:
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=nothing[variable.dtype])

    def read(self) -> dict[str, Matrix]:
        """All weights by name; not to be used before `fill` has run."""
        return self.read_some(self._stored)

    def read_some(self, names: Iterable[str]) -> dict[str, Matrix]:
        """The weights of these names."""
        sizes = list(self._rows.values())
        scales = dict(zip(self._rows, tf.split(self._scales, sizes), strict=True)) if sizes else {}
        found: dict[str, Matrix] = {}
        for name in names:
            value = tf.convert_to_tensor(self._own.get(name, self._stored[name]))
            value.set_shape(self._shapes[name])
            rows = Quantised(value, scales[name]) if name in scales else value
            found[name] = Transposed(rows) if name in self._transposed else rows
        return found


def _number_format(precision: Precision, name: str, variable: tf.Variable) -> tf.DType:
    """Gains and biases are float32; learned positions, which no product takes, are not quantised."""
    if variable.shape.rank == 1 or precision is Precision.FLOAT32:
        return tf.float32
    return tf.int8 if precision is Precision.INT8 and name != "positions" else tf.bfloat16


def _empty(name: str, shape: tf.TensorShape, dtype: tf.DType) -> tf.Variable:
    """A variable that will have this shape, without a row yet."""
    nothing = tf.zeros([0, *shape[1:]], dtype)
    return tf.Variable(nothing, shape=[None, *shape[1:]], trainable=False, name=name)
