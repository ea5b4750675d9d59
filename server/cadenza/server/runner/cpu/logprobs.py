"""Log-probabilities of a row of logits, as Numba kernels: of one token and of the most probable ones."""

import math

import numpy as np
from numba import njit

from cadenza.server.runner.base import NO_TOKEN
from cadenza.server.runner.cpu.mathematics import exp32

_FAST = {"reassoc", "contract", "nsz", "nnan"}


@njit(fastmath=_FAST, error_model="numpy")
def log_sum_exp(logits, highest):
    """log(sum(exp(logits))), float64. logits: [V] float32 without NaN; highest: the greatest, finite."""
    total = np.float64(0.0)
    for i in range(logits.shape[0]):
        total += np.float64(exp32(logits[i] - highest))
    return np.float64(highest) + math.log(total)


@njit
def most_probable(logits, count, token_ids):
    """Writes the `count` tokens of the greatest logits into token_ids, greatest first, ties by lower id.

    logits: [V] float32 without NaN. token_ids: int32. Tokens of logit -infinity have no part in it; NO_TOKEN
    follows the last where fewer than `count` are left.
    """
    token_ids[:count] = NO_TOKEN
    found, least = 0, np.float32(-np.inf)
    for i in range(logits.shape[0]):
        if count == 0 or logits[i] <= least:
            continue
        found = min(found + 1, count)
        rank = found - 1
        while rank > 0 and logits[token_ids[rank - 1]] < logits[i]:
            token_ids[rank] = token_ids[rank - 1]
            rank -= 1
        token_ids[rank] = i
        if found == count:
            least = logits[token_ids[count - 1]]


@njit
def log_probabilities(logits, highest, token_id, count, alternative_ids, alternative_logprobs):
    """The log-softmax of one token, float64; that of the `count` most probable ones is written.

    logits: [V] float32; highest: the greatest of them, finite. alternative_ids: [>= count] int32, as
    `most_probable` leaves it. alternative_logprobs: [>= count] float64.
    """
    total = log_sum_exp(logits, highest)
    most_probable(logits, count, alternative_ids)
    for rank in range(count):
        if alternative_ids[rank] != NO_TOKEN:
            alternative_logprobs[rank] = np.float64(logits[alternative_ids[rank]]) - total
    return np.float64(logits[token_id]) - total
