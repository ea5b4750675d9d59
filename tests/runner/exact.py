"""What sampling means, in NumPy and float64, as the docstring of SamplingParams words it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cadenza.server.engine.request import SamplingParams

Row = NDArray[np.float64]


def altered(
    logits: NDArray[np.float32], sampling: SamplingParams, history: Sequence[int], prompt: int
) -> Row:
    """[V] The logits after bias and penalties; the first `prompt` tokens of history are the prompt's."""
    row = logits.astype(np.float64)
    for token_id, bias in sampling.logit_bias:
        row[token_id] += bias
    seen = np.unique(np.array(history, np.int64))
    penalty = sampling.repetition_penalty
    row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    occurrences = np.bincount(np.array(history[prompt:], np.int64), minlength=len(row))
    row -= sampling.presence_penalty * (occurrences > 0)
    row -= sampling.frequency_penalty * occurrences
    return row


def distribution(
    logits: NDArray[np.float32],
    sampling: SamplingParams,
    history: Sequence[int] = (),
    prompt: int = 0,
    *,
    slack: float = 0.0,
) -> Row:
    """[V] The probability of each token to be drawn; `slack` widens the borders of top_p and min_p."""
    row = altered(logits, sampling, history, prompt)
    weights = np.exp((row - row.max()) / sampling.temperature)
    order = np.argsort(-weights, kind="stable")
    kept = order[: sampling.top_k or len(order)]
    reached = np.cumsum(weights[kept]) / weights[kept].sum()
    kept = kept[: int(np.searchsorted(reached, sampling.top_p + slack - 1e-9)) + 1]
    kept = kept[weights[kept] >= sampling.min_p - slack]
    shares = np.zeros(len(row))
    shares[kept] = weights[kept]
    return np.asarray(shares / shares.sum())


def log_softmax(logits: NDArray[np.float32]) -> Row:
    """[..., V] Of float32 logits, in float64."""
    rows = logits.astype(np.float64)
    rows = rows - rows.max(axis=-1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True)))


def chi_square_is_plausible(found: NDArray[np.int64], expected: Row) -> bool:
    """Whether counts may be drawn from the expected ones: a chi-square test at 4 standard deviations.

    The quantile is Wilson and Hilferty's (1931). What is impossible must not have happened.
    """
    possible = expected > 1e-6
    if found[~possible].any():
        return False
    statistic = float(((found - expected)[possible] ** 2 / expected[possible]).sum())
    freedom = max(int(possible.sum()) - 1, 1)
    spread = 2 / (9 * freedom)
    return statistic < freedom * float((1 - spread + 4.0 * np.sqrt(spread)) ** 3)
