"""Alters a row of logits before a token is chosen, as Numba kernels: biases, then penalties.

Both cost time in proportion to the tokens they name, not to the vocabulary, and nothing where none is asked.
"""

import numpy as np
from numba import njit

_ALTERED = -1


@njit
def add_biases(logits, token_ids, values):
    """logits[token_ids] += values. logits: [V] float32; token_ids: [N] int32; values: [N] float32."""
    for i in range(token_ids.shape[0]):
        logits[token_ids[i]] += values[i]


@njit
def penalise(logits, history, prompt_length, repetition, presence, frequency, counts):
    """Lowers the logits of tokens that were there before.

    Of each token of `history` a positive logit is divided by `repetition`, another multiplied (CTRL,
    arXiv:1909.05858, section 4.1, with the sign heeded). Then each token after the prompt loses
    presence + frequency * how often it stands there (OpenAI API reference, presence_penalty and
    frequency_penalty).

    logits: [V] float32. history: int32 token ids, the prompt's first. counts: scratch [V] int32, zeros before
    and after.
    """
    for token_id in history[prompt_length:]:
        counts[token_id] += 1
    for token_id in history:
        count = counts[token_id]
        if count == _ALTERED:
            continue
        counts[token_id] = _ALTERED
        value = np.float64(logits[token_id])
        value = value / repetition if value > 0 else value * repetition
        if count > 0:
            value -= presence + count * np.float64(frequency)
        logits[token_id] = np.float32(value)
    for token_id in history:
        counts[token_id] = 0
