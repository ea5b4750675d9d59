"""A lane's own memory. Sizes as in runner/cpu/memory.py."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Fields of LaneMemory.control.
STOP, ROW_BEGIN, ROW_END, HEAD_BEGIN, HEAD_END, SHARING, FAILED_PROGRAM, STATUS = range(8)


class LaneMemory(NamedTuple):
    """A lane's own buffers."""

    control: NDArray[np.int64]
    programs: NDArray[np.int64]
    """[L + 3, 6]: arguments of `run` for each segment, the head, and the head for the last rows."""
    hidden: tuple[NDArray[np.float32], NDArray[np.float32]]
    """[rows, d], read and written in turn."""
    qkv: NDArray[np.float32]
    attention: NDArray[np.float32]
    """[rows, heads, head_dim]"""
    query: NDArray[np.float32]
    """[rows, heads, head_dim]"""
    scores: NDArray[np.float32]
    """[blocks, group, block]"""
    head_hidden: NDArray[np.float32]
    """[HEAD_ROWS, d]"""
    logits: NDArray[np.float32]
    """[HEAD_ROWS, V]"""
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
