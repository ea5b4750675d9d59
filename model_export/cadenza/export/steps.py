"""The artifact's step programs: what a server with an accelerator compiles, once per bucket of static shapes.

A step advances any sequences by any number of tokens over a block-paged KV cache, which lives in variables
that the server sizes. The decoder is that of decoder.py; only where keys and values lie is said here.
"""

import tensorflow as tf

from cadenza.export import decoder, paged
from cadenza.export.model import DecoderConfig, DecoderWeights, Precision, named
from cadenza.export.paged import Placement
from cadenza.export.precision import Matrix
from cadenza.export.prepared import PreparedWeights


class Steps(tf.Module):
    """The attribute `steps` of an artifact's SavedModel: a program for each precision, under its name."""

    def __init__(self, config: DecoderConfig, stored: DecoderWeights[tf.Variable]) -> None:
        super().__init__(name="steps")
        for precision in Precision:
            setattr(self, precision.value, StepProgram(config, stored, precision))


class StepProgram(tf.Module):
    """The decoder in one number format.

    The order of calls is prepare, release (if nothing else reads the file's weights), allocate, then steps.
    A step is copy_blocks, advance, and head for the rows whose logits are wanted. R sequences, C tokens of
    each at most, P blocks of each, K copies, N rows: every one static where a function is compiled.
    """

    def __init__(
        self, config: DecoderConfig, stored: DecoderWeights[tf.Variable], precision: Precision
    ) -> None:
        super().__init__(name=precision.value)
        self._config = config
        self._structure = stored
        self._weights = PreparedWeights(stored, precision)
        number = tf.float32 if precision is Precision.FLOAT32 else tf.bfloat16
        self._pools = [
            _empty_pool(config, f"{precision.value}_layer_{index:03d}_kv", number)
            for index in range(config.num_layers)
        ]
        scalar, vector = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
        matrix = tf.TensorSpec([None, None], tf.int32)
        rows = tf.TensorSpec([None, config.hidden_size])
        self.prepare = tf.function(self._weights.fill, input_signature=[], autograph=False)
        self.release = tf.function(self._weights.release, input_signature=[], autograph=False)
        self.allocate = tf.function(self._allocate, input_signature=[scalar, scalar], autograph=False)
        self.copy_blocks = tf.function(self._copy_blocks, input_signature=[vector, vector], autograph=False)
        self.advance = tf.function(
            self._advance, input_signature=[matrix, vector, vector, matrix], autograph=False
        )
        self.head = tf.function(self._head, input_signature=[rows], autograph=False)

    def _allocate(self, num_blocks: tf.Tensor, block_size: tf.Tensor) -> None:
        """Makes the KV cache anew, zeros: num_blocks blocks of block_size tokens, and one of scratch behind.

        It is float32 in the float32 program, bfloat16 in the others.
        """
        done: list[tf.Operation] = []
        for pool in self._pools:
            # One after the other: equal zeros would become one tensor, which no step could update in place.
            with tf.control_dependencies(done):
                _, _, heads, _, size = pool.shape
                zeros = tf.zeros([num_blocks + 1, 2, heads, block_size, size], pool.dtype)
                done = [pool.assign(zeros, read_value=False)]

    def _copy_blocks(self, sources: tf.Tensor, targets: tf.Tensor) -> None:
        """Copies blocks, all layers, keys and values; both int32 [K]. Padding copies scratch to scratch."""
        copy = tf.function(paged.copy, autograph=False)
        for pool in self._pools:
            pool.assign(copy(tf.convert_to_tensor(pool), sources, targets), read_value=False)

    def _advance(
        self, token_ids: tf.Tensor, starts: tf.Tensor, lengths: tf.Tensor, block_tables: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Advances R sequences and writes their keys and values, in each layer before any are read.

        So consecutive pieces of one sequence may be rows of one call.

        Args:
            token_ids: int32 [R, C], padded with any.
            starts: int32 [R], the position of each row's first token.
            lengths: int32 [R], from 0 to C: how many of the columns are tokens.
            block_tables: int32 [R, P], padded with any block; covers all positions of a row's tokens.

        Returns:
            Hidden states after the final norm, as `head` takes them: of each row's last token float32
            [R, hidden_size], and of every token float32 [R, C, hidden_size]; those of padding mean nothing.
        """
        values = self._weights.read()
        weights = self._structure.map(lambda name, _: values[name])
        rows, columns = tf.unstack(tf.shape(token_ids))
        first = tf.convert_to_tensor(self._pools[0])
        placement = paged.place(first, starts, lengths, block_tables, columns, self._config.max_context)
        positions = tf.reshape(placement.positions, [-1])
        hidden = decoder.embed(weights, tf.reshape(token_ids, [-1]), positions)
        advance_layer = tf.function(self._advance_layer, autograph=False)
        for layer, pool in zip(weights.layers, self._pools, strict=True):
            hidden, written = advance_layer(named(layer), tf.convert_to_tensor(pool), hidden, placement)
            pool.assign(written, read_value=False)
        normed = decoder.norm(self._config, weights.final_norm, hidden)
        every = tf.reshape(normed, [rows, columns, self._config.hidden_size])
        return tf.gather(every, tf.maximum(lengths - 1, 0), batch_dims=1), every

    def _advance_layer(
        self, weights: dict[str, Matrix], pool: tf.Tensor, hidden: tf.Tensor, placement: Placement
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One layer, once in the graph for all: hidden states [R * C, hidden_size] and pool, to the same."""
        config = self._config
        layer = self._structure.layers[0].map(lambda name, _: weights[name])
        batch = tf.shape(placement.positions)[0]
        qkv = decoder.attention_input(config, layer, hidden)
        query, new = decoder.query_and_cache(config, qkv, placement.positions, batch)
        pool = paged.write(pool, new, placement)
        attention = decoder.attend(config, query, paged.read(pool, placement), placement.visible)
        return decoder.after_attention(config, layer, hidden, attention), pool

    def _head(self, hidden: tf.Tensor) -> tf.Tensor:
        """Hidden states of `advance`, float32 [N, hidden_size] -> next-token logits float32 [N, V]."""
        names = {"head": "embedding" if self._structure.tied else "head", "head_bias": "head_bias"}
        needed = self._structure.head.map(lambda name, _: names[name], "head")
        values = self._weights.read_some(needed.leaves())
        return decoder.linear(needed.map(lambda _, name: values[name], "head"), hidden)


def _empty_pool(config: DecoderConfig, name: str, number: tf.DType) -> tf.Variable:
    """A layer's pool without a block: [0, 2, kv_heads, 0, head_dim]."""
    heads, size = config.num_kv_heads, config.head_dim
    nothing = tf.zeros([0, 2, heads, 0, size], number)
    return tf.Variable(nothing, shape=[None, 2, heads, None, size], trainable=False, name=name)
