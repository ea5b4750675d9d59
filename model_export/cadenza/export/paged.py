"""The block-paged KV cache of the step programs (PagedAttention, arXiv:2309.06180): pure functions on a pool.

A pool holds one layer: [blocks, block_size, 2 (keys, values), kv_heads, head_dim]. The last block is scratch:
what nobody will read is written there.
"""

from typing import NamedTuple

import tensorflow as tf

from cadenza.export.decoder import LayerCache


class Placement(NamedTuple):
    """Where the tokens of one step stand: R sequences, C columns of tokens; the same for every layer."""

    positions: tf.Tensor
    """int32 [R, C]; behind a row's tokens any that exist."""
    slots: tf.Tensor
    """int32 [R * C]: where the pool takes each token, counted in tokens."""
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
    blocks, block_size = tf.unstack(tf.shape(pool)[:2])
    width = tf.shape(block_tables)[1]
    column = tf.range(columns)
    positions = tf.minimum(starts[:, None] + column, context - 1)
    entry = tf.minimum(positions // block_size, width - 1)
    slots = tf.gather(block_tables, entry, batch_dims=1) * block_size + positions % block_size
    scratch = (blocks - 1) * block_size
    slots = tf.where(column < lengths[:, None], slots, scratch)
    everywhere = tf.range(width * block_size)
    known = everywhere < (starts + lengths)[:, None]
    visible = known[:, None] & (everywhere <= positions[:, :, None])
    return Placement(positions, tf.reshape(slots, [-1]), block_tables, known, visible)


def write(pool: tf.Tensor, new: LayerCache, placement: Placement) -> tf.Tensor:
    """The pool with the keys and values of a step's tokens, [R, kv_heads, C, head_dim] each."""
    both = tf.transpose(tf.stack(new, axis=2), [0, 3, 2, 1, 4])
    token = [-1, *pool.shape[2:]]
    rows = tf.cast(tf.reshape(both, token), pool.dtype)
    slots = tf.reshape(pool, token)
    return tf.reshape(tf.tensor_scatter_nd_update(slots, placement.slots[:, None], rows), tf.shape(pool))


def read(pool: tf.Tensor, placement: Placement) -> LayerCache:
    """The sequences' keys and values, [R, kv_heads, S, head_dim] each.

    Values that no token has written are zero: whatever a block's last owner left there, NaN included, no
    share of zero can carry it on.
    """
    rows, width = tf.unstack(tf.shape(placement.block_tables))
    _, kv_heads, head_dim = pool.shape[2:]
    blocks = tf.transpose(tf.gather(pool, placement.block_tables), [3, 0, 4, 1, 2, 5])
    positions = width * tf.shape(pool)[1]
    keys, values = tf.unstack(tf.reshape(blocks, [2, rows, kv_heads, positions, head_dim]))
    return LayerCache(keys, tf.where(placement.known[:, None, :, None], values, 0))


def copy(pool: tf.Tensor, sources: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The pool with the blocks `sources` at `targets`, int32 [K] each; all are read before one is written."""
    return tf.tensor_scatter_nd_update(pool, targets[:, None], tf.gather(pool, sources))
