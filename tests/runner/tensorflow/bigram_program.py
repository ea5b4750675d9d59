"""A step program whose logits after a token are a row of a table, like that of tests/runner/bigram.py."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.tensorflow.runner import ModelSizes, TensorFlowRunner

LIMITS = RunnerLimits(block_size=4, num_blocks=64, max_step_tokens=64, max_sequences=8, max_context=64)


class BigramProgram:
    """Hidden states are logits already; there is nothing to cache."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = tf.Variable(table)

    def prepare(self) -> None:
        pass

    def release(self) -> None:
        pass

    def allocate(self, num_blocks: tf.Tensor, block_size: tf.Tensor) -> None:
        pass

    def advance(
        self, token_ids: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor, block_tables: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        every = tf.gather(tf.convert_to_tensor(self._table), token_ids)
        return tf.gather(every, tf.maximum(lengths - 1, 0), batch_dims=1), every

    def head(self, hidden: tf.Tensor) -> tf.Tensor:
        return tf.identity(hidden)

    def copy_blocks(self, sources: tf.Tensor, targets: tf.Tensor) -> None:
        pass


def bigram_runner(
    table: NDArray[np.float32], *, limits: RunnerLimits = LIMITS, jit: bool = True
) -> TensorFlowRunner:
    """A runner on logits that a test gives, [V, V] float32; what follows them is the runner's own."""
    sizes = ModelSizes(hidden_size=len(table), vocabulary=len(table))
    return TensorFlowRunner(BigramProgram(table), limits, sizes, device="/device:CPU:0", jit=jit)
