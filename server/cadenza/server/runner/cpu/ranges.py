"""Cuts a step's rows into one range a lane."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cadenza.server.runner.cpu.memory import StepMemory

_ROW_COST_PER_POSITION = 1 / 512
"""What attention to one position costs, in units of a row's linear layers; measured on SmolLM2."""
_HEAD_ROW_COST = 0.25
"""What the logits of a row cost, in the same units."""

Range = tuple[int, int]


def cut_rows(
    step: StepMemory, rows: int, heads: int, parts: int
) -> tuple[Sequence[tuple[Range, Range]], bool]:
    """Ranges of rows and of head rows of about equal cost, and whether a sequence has rows in two of them."""
    head_rows = step.heads["row"][:heads]
    costs = 1.0 + step.positions[:rows].astype(np.float64) * _ROW_COST_PER_POSITION
    costs[head_rows] += _HEAD_ROW_COST
    cuts = split_rows(costs, parts)
    head_cuts = np.searchsorted(head_rows, cuts)
    inner = step.slice_of_row[cuts[1:-1]]
    shared = bool(np.any(inner == step.slice_of_row[cuts[1:-1] - 1]))
    ranges = [
        ((int(cuts[i]), int(cuts[i + 1])), (int(head_cuts[i]), int(head_cuts[i + 1]))) for i in range(parts)
    ]
    return ranges, shared


def split_rows(costs: NDArray[np.float64], parts: int) -> NDArray[np.int64]:
    """Boundaries [parts + 1] that cut rows of these costs into ranges of about equal cost, none empty."""
    sums = np.cumsum(costs)
    cuts = np.searchsorted(sums, sums[-1] * np.arange(1, parts) / parts) + 1
    cuts = np.minimum(np.maximum(cuts, np.arange(1, parts)), len(costs) - np.arange(parts - 1, 0, -1))
    return np.concatenate([[0], cuts, [len(costs)]]).astype(np.int64)
