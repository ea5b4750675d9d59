"""Inverse frequencies of rotary position embeddings, plain and scaled.

Formulas: RoFormer (arXiv:2104.09864, section 3.2.2); linear scaling: arXiv:2306.15595; the "llama3" rule is
the one published with Llama 3.1. Computed in float64, rounded once to float32.
"""

import numpy as np
import numpy.typing as npt

from cadenza.export.settings import Settings

Frequencies = npt.NDArray[np.float64]
MAX_CONTEXT = 2**24


def inverse_frequencies(base: float, head_dim: int) -> Frequencies:
    """base ** (-2 i / head_dim) for i below head_dim / 2, in radians per position."""
    return np.asarray(base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim))


def llama3_scaling(plain: Frequencies, scaling: Settings) -> Frequencies:
    """Slows wavelengths that the original context did not hold; blends between the two bounds."""
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if high <= low:
        raise scaling.refusal("high_freq_factor", f"larger than low_freq_factor, {low}")
    original = scaling.integer("original_max_position_embeddings", high=MAX_CONTEXT)
    turns = original * plain / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - kept) * plain / factor + kept * plain)


def rounded(frequencies: Frequencies) -> tuple[float, ...]:
    """As Python floats that are exact float32 values."""
    return tuple(float(value) for value in frequencies.astype(np.float32))
