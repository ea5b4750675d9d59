"""Chooses one token from a row of logits, as a Numba kernel.

The order: divide by the temperature, softmax, keep the top_k, of those the top_p, of those the min_p, and
draw. The random number depends on (seed, choice, position) alone, so a request's tokens do not depend on its
batch. Biases and penalties have altered the logits before (penalties.py).
"""

import numpy as np
from numba import njit

from cadenza.server.runner.base import NOT_FINITE
from cadenza.server.runner.cpu.intrinsics import bits_of_float
from cadenza.server.runner.cpu.mathematics import exp32

_NEVER = np.inf
_HEAVIEST = 0x7FFFFFFF
_BUCKET_SHIFT = 19
_BUCKETS = 1 << (32 - _BUCKET_SHIFT - 1)


@njit
def argmax(logits):
    """The first index of the greatest logit. logits: [V] float32.

    NOT_FINITE where they hold NaN or +infinity, or nothing above -infinity.
    """
    best, found = np.float32(-np.inf), NOT_FINITE
    for i in range(logits.shape[0]):
        if not logits[i] <= best:
            best, found = logits[i], i
            if not np.isfinite(best):
                return NOT_FINITE
    return found


@njit
def uniform(seed, choice, position):
    """A number in [0, 1) from a 64-bit seed, a choice and a position.

    By SplitMix64's mixer (Steele et al. 2014). Positions step through the states by its constant, choices by
    another odd one, far from small multiples of the first.
    """
    z = np.uint64(seed) + (np.uint64(position) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(choice) * np.uint64(0xD1342543DE82EF95)
    for _ in range(2):  # twice, so that close seeds are not close streams
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit
def sample(logits, best, temperature, top_k, top_p, min_p, seed, choice, position, order):
    """The next token id; NOT_FINITE where `best`, the logits' argmax, is.

    logits: [V] float32, overwritten; order: scratch [V] int32.
    """
    if best == NOT_FINITE or temperature == 0.0:
        return best
    highest = logits[best]
    scale = np.float32(1.0 / temperature)
    for i in range(logits.shape[0]):
        logits[i] = exp32((logits[i] - highest) * scale)
    draw = uniform(seed, choice, position)
    if top_k <= 0 and top_p >= 1.0 and min_p <= 0.0:
        return _draw_any(logits, draw, best)
    kept = _keep(logits, top_k, top_p, min_p, order)
    return _draw_ordered(logits, order, kept, draw)


@njit
def _draw_any(weights, draw, best):
    target = draw * _total(weights)
    for i in range(weights.shape[0]):
        target -= np.float64(weights[i])
        if target < 0.0:
            return i
    return best


@njit
def _draw_ordered(weights, order, kept, draw):
    total = 0.0
    for rank in range(kept):
        total += np.float64(weights[order[rank]])
    target = draw * total
    for rank in range(kept):
        target -= np.float64(weights[order[rank]])
        if target < 0.0:
            return np.int64(order[rank])
    return np.int64(order[0])


@njit
def _keep(weights, top_k, top_p, min_p, order):
    """Fills `order` with the tokens that stay, heaviest first (ties by id); returns how many."""
    everything = _total(weights)
    if 0 < top_k < weights.shape[0]:
        kept = min(top_k, _sort_heaviest(weights, top_k, _NEVER, np.float32(0.0), order))
        total = 0.0
        for rank in range(kept):
            total += np.float64(weights[order[rank]])
    elif top_p < 1.0:
        total = everything
        kept = _sort_heaviest(weights, weights.shape[0], top_p * everything, np.float32(0.0), order)
    else:
        total = everything
        kept = _sort_heaviest(weights, weights.shape[0], _NEVER, np.float32(min_p), order)
    if top_p < 1.0:
        kept = _ranks_of_mass(weights, order, kept, top_p * total)
    while kept > 1 and weights[order[kept - 1]] < np.float32(min_p):
        kept -= 1
    return kept


@njit
def _total(weights):
    total = 0.0
    for weight in weights:
        total += np.float64(weight)
    return total


@njit
def _ranks_of_mass(weights, order, count, mass):
    """How many of the first `count` ranks it takes to weigh `mass` together."""
    reached = 0.0
    for rank in range(count):
        reached += np.float64(weights[order[rank]])
        if reached >= mass:
            return rank + 1
    return count


@njit
def _sort_heaviest(weights, limit, mass, floor, order):
    """Sorts tokens into `order`, heaviest first, until `limit` of them are there, or they weigh `mass`
    together, or the rest weighs less than `floor` each; returns how many it sorted, perhaps a few more.

    Weights are grouped by their leading bits first, so that only groups that matter are sorted.
    """
    starts, grouped = _group(weights)
    count, reached = 0, 0.0
    for bucket in range(_BUCKETS - 1, -1, -1):
        members = grouped[starts[bucket] : starts[bucket + 1]]
        if members.shape[0] == 0:
            continue
        if count >= limit or reached >= mass or bucket < _bucket(floor):
            break
        keys = np.empty(members.shape[0], np.int64)
        for i in range(members.shape[0]):
            keys[i] = ((_HEAVIEST - np.int64(bits_of_float(weights[members[i]]))) << 32) | np.int64(
                members[i]
            )
        keys.sort()
        for key in keys:
            order[count] = np.int32(key & 0xFFFFFFFF)
            reached += np.float64(weights[order[count]])
            count += 1
    return count


@njit
def _group(weights):
    """Sorts token ids by bucket, then id: those of bucket b are grouped[starts[b] : starts[b + 1]]."""
    starts = np.zeros(_BUCKETS + 1, np.int32)
    for weight in weights:
        starts[_bucket(weight) + 1] += 1
    for bucket in range(_BUCKETS):
        starts[bucket + 1] += starts[bucket]
    grouped = np.empty(weights.shape[0], np.int32)
    nexts = starts[:-1].copy()
    for i in range(weights.shape[0]):
        bucket = _bucket(weights[i])
        grouped[nexts[bucket]] = i
        nexts[bucket] += 1
    return starts, grouped


@njit(inline="always")
def _bucket(weight):
    """The sign, exponent and upper mantissa of a weight >= 0: heavier is never lower."""
    return bits_of_float(weight) >> np.int32(_BUCKET_SHIFT)
