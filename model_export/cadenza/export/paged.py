"""The block-paged KV cache of the step programs (PagedAttention, arXiv:2309.06180): pure functions on a pool.

A pool holds one layer: [blocks, 2 (keys, values), kv_heads, block_size, head_dim]. So one gather gives
attention what it multiplies with, without a transposition. The last block is scratch: what nobody will read
is written there. Every update ends with one more write into it: XLA compiles an update of a single place to
a copy of the whole pool.
"""

from typing import NamedTuple

import tensorflow as tf

from cadenza.export.decoder import LayerCache


class Placement(NamedTuple):
    """Where the tokens of one step stand: R sequences, C columns of tokens; the same for every layer."""

    positions: tf.Tensor
    """int32 [R, C]; behind a row's tokens any that exist."""
    blocks: tf.Tensor
    """int32 [R, C]: the block that takes each token."""
    offsets: tf.Tensor
    """int32 [R, C]: its place in the block."""
    block_tables: tf.Tensor
    """int32 [R, P]."""
    known: tf.Tensor
    """bool [R, S], S = P * block_size: positions that hold a token once the step's are written."""
    visible: tf.Tensor
    """bool [R, C, S]: which of them each token may see, all up to its own."""


def place(
    pool: tf.Tensor,
    starts: tf.Tensor,
    lengths: tf.Tensor,
    block_tables: tf.Tensor,
    columns: tf.Tensor,
    context: int,
) -> Placement:
    """Places lengths[r] tokens at positions starts[r], starts[r] + 1, ... of each sequence.

    Args:
        pool: any layer's, for its shape.
        starts: int32 [R].
        lengths: int32 [R], from 0 to `columns`.
        block_tables: int32 [R, P]; entry i holds the positions from i * block_size on.
        columns: int32 scalar, C.
        context: positions that there are.
    """
    scratch, block_size = tf.shape(pool)[0] - 1, tf.shape(pool)[3]
    width = tf.shape(block_tables)[1]
    column = tf.range(columns)
    positions = tf.minimum(starts[:, None] + column, context - 1)
    entries = tf.minimum(positions // block_size, width - 1)
    blocks = tf.gather(block_tables, entries, batch_dims=1)
    blocks = tf.where(column < lengths[:, None], blocks, scratch)
    everywhere = tf.range(width * block_size)
    known = everywhere < (starts + lengths)[:, None]
    visible = known[:, None] & (everywhere <= positions[:, :, None])
    return Placement(positions, blocks, positions % block_size, block_tables, known, visible)


def write(pool: tf.Tensor, new: LayerCache, placement: Placement) -> tf.Tensor:
    """The pool with the keys and values of a step's tokens, [R, kv_heads, C, head_dim] each."""
    _, _, kv_heads, _, head_dim = pool.shape
    block_size = tf.shape(pool)[3]
    planes = tf.reshape(tf.range(2 * kv_heads), [2, kv_heads, 1])
    planes += placement.blocks[:, None, None] * (2 * kv_heads)
    slots = tf.reshape(planes * block_size + placement.offsets[:, None, None], [-1, 1])
    rows = tf.reshape(tf.cast(tf.stack(new, axis=1), pool.dtype), [-1, head_dim])
    scratch = tf.reduce_prod(tf.shape(pool)[:4]) - 1
    slots, rows = tf.pad(slots, [[0, 1], [0, 0]], constant_values=scratch), tf.pad(rows, [[0, 1], [0, 0]])
    flat = tf.reshape(pool, [-1, head_dim])
    return tf.reshape(tf.tensor_scatter_nd_update(flat, slots, rows), tf.shape(pool))


def read(pool: tf.Tensor, placement: Placement) -> LayerCache:
    """The sequences' keys and values, [R, kv_heads, S, head_dim] each.

    Values that no token has written are zero: whatever a block's last owner left there, NaN included, no
    share of zero can carry it on.
    """
    rows, width = tf.unstack(tf.shape(placement.block_tables))
    _, _, kv_heads, _, head_dim = pool.shape
    block_size = tf.shape(pool)[3]
    planes = tf.reshape(pool, [-1, block_size, head_dim])
    first = placement.block_tables[:, None] * (2 * kv_heads) + tf.range(kv_heads)[:, None]
    shape = [rows, kv_heads, width * block_size, head_dim]
    keys = tf.reshape(tf.gather(planes, first), shape)
    values = tf.reshape(tf.gather(planes, first + kv_heads), shape)
    return LayerCache(keys, tf.where(placement.known[:, None, :, None], values, 0))


def copy(pool: tf.Tensor, sources: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The pool with the blocks `sources` at `targets`, int32 [K] each; all are read before one is written."""
    scratch = tf.shape(pool)[0] - 1
    sources, targets = (tf.pad(blocks, [[0, 1]], constant_values=scratch) for blocks in (sources, targets))
    return tf.tensor_scatter_nd_update(pool, targets[:, None], tf.gather(pool, sources))
