"""A model's step functions, compiled once for each static shape, with the state they work on.

Hidden states stay on the device: `advance` leaves those that a head needs in a table of slots, and the
samplers read them there. What comes back is token ids, and log-probabilities of rows that asked.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import tensorflow as tf

from cadenza.server.runner.base import NOT_FINITE, RunnerLimits
from cadenza.server.runner.tensorflow import sampling
from cadenza.server.runner.tensorflow.alteration import (
    Alterations,
    Logprobs,
    altered,
    log_probabilities,
)
from cadenza.server.runner.tensorflow.buckets import COPIES, HEAD_ROWS, Bucket, Buckets
from cadenza.server.runner.tensorflow.hand_over import (
    MOST_BIASES,
    AdvanceArrays,
    AlterationArrays,
    DrawArrays,
)
from cadenza.server.runner.tensorflow.sampling import Draws

_INT, _FLOAT = tf.int32, tf.float32


class StepProgram(Protocol):
    """What an artifact carries for each precision (model_export/cadenza/export/steps.py has the shapes)."""

    def prepare(self) -> None:
        """Makes the program's own weights of the file's."""

    def release(self) -> None:
        """Frees those of the file's weights that are not needed any more."""

    def allocate(self, num_blocks: tf.Tensor, block_size: tf.Tensor) -> None:
        """Makes the KV cache, with a block of scratch behind the last."""

    def advance(
        self, token_ids: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor, block_tables: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Hidden states float32 of each row's last token, [R, hidden_size], and all, [R, C, hidden_size]."""

    def head(self, hidden: tf.Tensor) -> tf.Tensor:
        """Logits float32 [N, V] of hidden states [N, hidden_size]."""

    def copy_blocks(self, sources: tf.Tensor, targets: tf.Tensor) -> None:
        """Copies KV blocks, int32 [K] each."""


class Programs:
    """Compiled functions of one model on one device."""

    def __init__(
        self,
        program: StepProgram,
        limits: RunnerLimits,
        buckets: Buckets,
        *,
        hidden_size: int,
        vocabulary: int,
        jit: bool,
        on_compile: Callable[[], None],
    ) -> None:
        """Traces everything; what is traced is compiled when it first runs.

        `jit` False leaves the plain graph, which tests compare with. `on_compile` is called for every trace.
        """
        self._program = program
        self._hidden = tf.Variable(tf.zeros([limits.max_step_tokens + 1, hidden_size]), trainable=False)
        self._vocabulary = vocabulary
        self._context = limits.max_context
        self._jit = jit
        self._on_compile = on_compile
        self._advance = {bucket: self._traced_advance(bucket) for bucket in buckets.all}
        self._greedy = {rows: self._traced_greedy(rows) for rows in buckets.sampler_rows}
        self._drawn = {rows: self._traced_drawn(rows) for rows in buckets.sampler_rows}
        self._full = self._traced_full()
        self._copy = self._traced_copy()

    def advance(self, bucket: Bucket, arrays: AdvanceArrays) -> None:
        """Advances sequences and leaves their hidden states in the slots."""
        self._advance[bucket](arrays.token_ids, arrays.starts, arrays.lengths, arrays.tables, arrays.slots)

    def greedy(self, slots: Any) -> tf.Tensor:
        """The tokens of the greatest logits, int32 [N], for slots int32 [N]."""
        return self._greedy[len(slots)](slots)

    def drawn(self, arrays: DrawArrays) -> tf.Tensor:
        """Tokens that are drawn, int32 [N]."""
        return self._drawn[len(arrays.slots)](arrays.slots, arrays.ints, arrays.floats, arrays.seeds)

    def full(self, draws: DrawArrays, alterations: AlterationArrays) -> tuple[tf.Tensor, Logprobs]:
        """Tokens after biases and penalties, int32 [HEAD_ROWS], or the targets, with log-probabilities."""
        token_ids, *logprobs = self._full(
            draws.slots,
            draws.ints,
            draws.floats,
            draws.seeds,
            alterations.targets,
            alterations.penalties,
            alterations.history,
            alterations.prompt_lengths,
            alterations.bias_ids,
            alterations.biases,
        )
        return token_ids, Logprobs(*logprobs)

    def copy(self, sources: Any, targets: Any) -> None:
        """Copies blocks, int32 [COPIES] each."""
        self._copy(sources, targets)

    def _traced(self, function: Callable[..., Any], *shapes: tuple[tf.DType, list[int]]) -> Any:
        """The function for one set of static shapes."""

        def counted(*arguments: tf.Tensor) -> Any:
            self._on_compile()
            return function(*arguments)

        signature = [tf.TensorSpec(shape, dtype) for dtype, shape in shapes]
        traced = tf.function(
            counted, input_signature=signature, autograph=False, jit_compile=self._jit or None
        )
        return traced.get_concrete_function()

    def _traced_advance(self, bucket: Bucket) -> Any:
        rows, columns, blocks = bucket.rows, bucket.columns, bucket.blocks

        def advance(
            token_ids: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor, tables: tf.Tensor, slots: tf.Tensor
        ) -> None:
            _, every = self._program.advance(token_ids, starts, lengths, tables)
            found = tf.reshape(every, [rows * columns, self._hidden.shape[1]])
            table = tf.convert_to_tensor(self._hidden)
            updated = tf.tensor_scatter_nd_update(table, tf.reshape(slots, [-1, 1]), found)
            self._hidden.assign(updated, read_value=False)

        return self._traced(
            advance,
            (_INT, [rows, columns]),
            (_INT, [rows]),
            (_INT, [rows]),
            (_INT, [rows, blocks]),
            (_INT, [rows, columns]),
        )

    def _logits(self, slots: tf.Tensor) -> tf.Tensor:
        """float32 [N, V]"""
        hidden = tf.gather(tf.convert_to_tensor(self._hidden), slots)
        return tf.ensure_shape(self._program.head(hidden), [slots.shape[0], self._vocabulary])

    def _traced_greedy(self, rows: int) -> Any:
        def greedy(slots: tf.Tensor) -> tf.Tensor:
            return sampling.greatest(self._logits(slots))[1]

        return self._traced(greedy, (_INT, [rows]))

    def _traced_drawn(self, rows: int) -> Any:
        def drawn(slots: tf.Tensor, ints: tf.Tensor, floats: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
            logits = self._logits(slots)
            highest, best = sampling.greatest(logits)
            return sampling.sample(logits, highest, best, _draws(ints, floats, seeds))

        return self._traced(drawn, *_draw_shapes(rows))

    def _traced_full(self) -> Any:
        def full(
            slots: tf.Tensor,
            ints: tf.Tensor,
            floats: tf.Tensor,
            seeds: tf.Tensor,
            targets: tf.Tensor,
            *alterations: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            raw = self._logits(slots)
            highest, best = sampling.greatest(raw)
            logits = altered(raw, Alterations(*alterations))
            drawn = sampling.sample(logits, *sampling.greatest(logits), _draws(ints, floats, seeds))
            chosen = tf.where(best == NOT_FINITE, NOT_FINITE, tf.where(targets >= 0, targets, drawn))
            return chosen, *log_probabilities(raw, highest, chosen)

        rows = HEAD_ROWS
        return self._traced(
            full,
            *_draw_shapes(rows),
            (_INT, [rows]),
            (_FLOAT, [rows, 3]),
            (_INT, [rows, self._context]),
            (_INT, [rows]),
            (_INT, [rows, MOST_BIASES]),
            (_FLOAT, [rows, MOST_BIASES]),
        )

    def _traced_copy(self) -> Any:
        return self._traced(self._program.copy_blocks, (_INT, [COPIES]), (_INT, [COPIES]))


def _draw_shapes(rows: int) -> Iterator[tuple[tf.DType, list[int]]]:
    yield from ((_INT, [rows]), (_INT, [rows, 3]), (_FLOAT, [rows, 3]), (tf.uint64, [rows]))


def _draws(ints: tf.Tensor, floats: tf.Tensor, seeds: tf.Tensor) -> Draws:
    temperature, top_p, min_p = tf.unstack(floats, axis=1)
    top_k, choice, position = tf.unstack(ints, axis=1)
    return Draws(temperature, top_p, min_p, top_k, choice, position, seeds)
