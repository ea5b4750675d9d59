"""Work on single rows against what the formulas say in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from cadenza.server.runner.native.rows import GELU, GELU_TANH, SILU, activate, normalise, quantise
from cadenza.server.runner.native.tiles import has_float_products

pytestmark = pytest.mark.skipif(not has_float_products(), reason="this processor lacks AVX-512")

POINTS = np.linspace(-30, 30, 4801).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (SILU, lambda x: x / (1 + math.exp(-x))),
        (GELU, lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
        (GELU_TANH, lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
    ids=["silu", "gelu", "gelu_tanh"],
)
def test_activations(kind: int, function: Callable[[float], float]) -> None:
    found = POINTS.copy()
    activate(found, kind)
    np.testing.assert_allclose(found, [function(float(x)) for x in POINTS], atol=3e-6)


@pytest.mark.parametrize("centred", [0, 1], ids=["rms", "layer"])
def test_norms_are_of_the_first_numbers_alone(centred: int) -> None:
    random = np.random.default_rng(1)
    row, gain, bias = (random.standard_normal(64).astype(np.float32) for _ in range(3))
    out = np.full(64, 7, np.float32)
    normalise(row, 48, gain, bias, np.float32(1e-5), centred, out)
    exact = row[:48].astype(np.float64) - (row[:48].mean() if centred else 0)
    expected = exact / np.sqrt(np.mean(exact**2) + 1e-5) * gain[:48] + bias[:48]
    np.testing.assert_allclose(out[:48], expected, rtol=1e-5, atol=1e-6)
    assert (out[48:] == 7).all()


@pytest.mark.parametrize("offset", [0.0, 5.0, -5.0])
def test_a_quantised_row_is_within_half_a_unit_and_knows_its_sum(offset: float) -> None:
    row = np.random.default_rng(3).standard_normal(64).astype(np.float32) + np.float32(offset)
    levels = np.zeros(64, np.int8)
    total, scale, zero = quantise(row, levels)
    assert total == levels.sum(dtype=np.int64)
    restored = (levels.astype(np.float64) - zero) * scale
    # The zero is rounded too, so that 0 is exact: at the range's ends half a unit more is lost.
    np.testing.assert_allclose(restored, row, atol=1.01 * float(scale))


def test_a_row_of_zeros_stays_one() -> None:
    levels = np.ones(32, np.int8)
    total, _, zero = quantise(np.zeros(32, np.float32), levels)
    assert (total, zero) == (0, 0)
    assert not levels.any()
