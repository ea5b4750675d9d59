"""The memory that the native kernels read and write: the model's, a step's, and each lane's own.

Sizes as in runner/cpu/memory.py; columns are padded to whole panels.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Fields of NativeLane.control. LANES work on the same rows; SHARING lanes, each with rows of its own, hold
# rows of the same sequence.
STOP, LANES, SHARING, ROW_BEGIN, ROWS, HEAD_BEGIN, HEADS, PHASE = range(8)


class Matrix(NamedTuple):
    """A weight matrix [outputs, inputs] of every layer, in panels (tiles.py), and what its outputs take."""

    panels: NDArray[Any]
    """int8: [L, panels, inputs / 4, PANEL, 4] uint8. float32: [L, panels, inputs, PANEL]."""
    scales: NDArray[np.float32]
    """[L, panels * PANEL] What a unit of an int8 weight is worth; nothing is read of it with float32."""
    sums: NDArray[np.int32]
    """[L, panels * PANEL] The sum of an output's int8 weights."""
    bias: NDArray[np.float32]
    """[L, panels * PANEL] Zeros where there is none."""


class Gains(NamedTuple):
    """A norm of every layer."""

    gain: NDArray[np.float32]
    """[L, n]; [L, 0] where there is no such norm."""
    bias: NDArray[np.float32]
    """[L, n] Zeros where there is none."""


class NativeModel(NamedTuple):
    """What all lanes share of the model."""

    embedding: NDArray[np.float32]
    """[V, d]"""
    positions: NDArray[np.float32]
    """[max_context, d], added to the embedding; [0, d] where positions are not learned."""
    cosines: NDArray[np.float32]
    """[max_context, rotated / 2]"""
    sines: NDArray[np.float32]
    keys: NDArray[Any]
    """[L, B, kv_heads, head_dim, block], float32 or bf16 as uint16."""
    values: NDArray[Any]
    """[L, B, kv_heads, block, head_dim]"""
    scale: np.float32
    """Factor on q.k."""
    epsilon: np.float32
    """Of the norms."""
    int8: int
    """1: the matrices' panels are int8, else float32."""
    tile: int
    """Address of the function that multiplies a tile of them."""
    centred: int
    """1: LayerNorm, else RMSNorm."""
    activation: int
    """SILU, GELU or GELU_TANH of rows.py."""
    gated: int
    parallel: int
    """1: the MLP reads what attention reads, not what it left."""
    attention_norm: Gains
    qkv: Matrix
    query_norm: Gains
    key_norm: Gains
    attention_output: Matrix
    mlp_norm: Gains
    up: Matrix
    """With a gate its panels and up's take turns: gate, up, gate, up, ..."""
    down: Matrix
    final_norm: Gains
    head: Matrix


class TeamMemory(NamedTuple):
    """Rows on their way through the layers, and how the lanes that work on them divide the work."""

    hidden: NDArray[np.float32]
    """[T, d] The residual stream."""
    normed: NDArray[np.float32]
    """[T, d]"""
    qkv: NDArray[np.float32]
    query: NDArray[np.float32]
    """[T, heads, head_dim]"""
    attention: NDArray[np.float32]
    """[T, heads * head_dim]"""
    mixed: NDArray[np.float32]
    """[T, heads, head_dim] The same memory."""
    inner: NDArray[np.float32]
    """[T, intermediate]"""
    levels: NDArray[np.int8]
    """[T, widest input] The rows that the next product takes, quantised."""
    scales: NDArray[np.float32]
    """[T] of `levels`."""
    zeros: NDArray[np.int32]
    totals: NDArray[np.int32]
    """[T] The sum of a row's levels."""
    logits: NDArray[np.float32]
    """[HEAD_ROWS, V]"""
    claims: NDArray[np.int64]
    """[phases, 8] How much of each phase's work is taken; row 0 counts arrivals at the meetings."""


class NativeLane(NamedTuple):
    """A lane's own."""

    control: NDArray[np.int64]
    tile: NDArray[np.float32]
    """[2, MOST_ROWS, PANEL]"""
    scores: NDArray[np.float32]
    """[blocks, ROWS_TOGETHER * group, block]"""
    raw_logits: NDArray[np.float32]
    """[V] A row's logits before they are altered."""
    order: NDArray[np.int32]
    """[V]"""
    counts: NDArray[np.int32]
    """[V] Zeros between rows."""
    seconds: NDArray[np.float64]
    """[4] Time in linear layers, attention, head and sampling, since the lane began."""
    clock: NDArray[np.int64]
    """[2] struct timespec."""
