"""Calls a step program the way a server does: padded to the static shapes of a bucket, under XLA.

With `xla=False` the same calls go through the plain graph, the reference.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tests.real.checks import LogitsFunction

Float32 = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence to advance, at positions start, start + 1, ..."""

    token_ids: Sequence[int]
    start: int
    blocks: Sequence[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """The static shapes of one compiled step."""

    rows: int
    columns: int
    blocks: int


class StepDriver:
    """A prepared program with a KV cache of its own."""

    def __init__(self, program: Any, num_blocks: int, block_size: int, *, xla: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        program.prepare()
        program.allocate(num_blocks, block_size)
        self.advance = tf.function(program.advance, jit_compile=xla, autograph=False)
        self.head = tf.function(program.head, jit_compile=xla, autograph=False)
        self.copy_blocks = tf.function(program.copy_blocks, jit_compile=xla, autograph=False)

    def arguments(self, bucket: Bucket, chunks: Sequence[Chunk]) -> tuple[tf.Tensor, ...]:
        """The arguments of `advance`; rows, columns and blocks of padding hold what does no harm."""
        token_ids = np.zeros([bucket.rows, bucket.columns], np.int32)
        starts, lengths = np.zeros([2, bucket.rows], np.int32)
        tables = np.full([bucket.rows, bucket.blocks], self.num_blocks, np.int32)
        for row, chunk in enumerate(chunks):
            token_ids[row, : len(chunk.token_ids)] = chunk.token_ids
            starts[row], lengths[row] = chunk.start, len(chunk.token_ids)
            tables[row, : len(chunk.blocks)] = chunk.blocks
        return tuple(map(tf.constant, (token_ids, starts, lengths, tables)))

    def hidden(self, bucket: Bucket, chunks: Sequence[Chunk]) -> tuple[tf.Tensor, tf.Tensor]:
        """One step: hidden states of the last tokens and of all."""
        last, every = self.advance(*self.arguments(bucket, chunks))
        return last, every

    def logits(self, bucket: Bucket, chunks: Sequence[Chunk]) -> list[Float32]:
        """One step: for each chunk the logits after each of its tokens, [T, V]."""
        _, every = self.hidden(bucket, chunks)
        rows = self.head(tf.reshape(every, [bucket.rows * bucket.columns, every.shape[2]])).numpy()
        padded = rows.reshape(bucket.rows, bucket.columns, -1)
        return [padded[row, : len(chunk.token_ids)] for row, chunk in enumerate(chunks)]

    def copy(self, count: int, copies: Sequence[tuple[int, int]]) -> None:
        """Copies blocks, padded to `count` copies of scratch to scratch."""
        padding = [(self.num_blocks, self.num_blocks)] * (count - len(copies))
        sources, targets = np.array([*copies, *padding], np.int32).T
        self.copy_blocks(tf.constant(sources), tf.constant(targets))


def step_logits(driver: StepDriver, bucket: Bucket) -> LogitsFunction:
    """The logits of one sequence, read chunk by chunk into shuffled blocks.

    Beside it goes the same sequence backwards, in the blocks that are left, so that what mixes rows shows.
    """

    def logits(token_ids: Sequence[int]) -> Float32:
        shuffled = np.random.default_rng(len(token_ids)).permutation(driver.num_blocks).tolist()
        needed = -(-len(token_ids) // driver.block_size)
        sequences = [token_ids, token_ids[::-1]]
        tables = [shuffled[:needed], shuffled[needed : 2 * needed]]
        found = []
        for start in range(0, len(token_ids), bucket.columns):
            part = slice(start, start + bucket.columns)
            chunks = [Chunk(ids[part], start, table) for ids, table in zip(sequences, tables, strict=True)]
            found.append(driver.logits(bucket, chunks)[0])
        rows: Float32 = np.concatenate(found)
        return rows

    return logits
