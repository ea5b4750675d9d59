"""The sampling kernel against exact probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cadenza.server.runner.litert.sampling import NOT_FINITE, sample, uniform

LOGITS = np.array([1.0, 2.5, 0.0, 2.0, -1.0, 1.5, -30.0], np.float32)


def draw(
    logits: NDArray[np.float32],
    position: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 7,
) -> int:
    order = np.zeros(len(logits), np.int32)
    row = logits.copy()
    return int(
        sample(
            row,
            np.float32(temperature),
            top_k,
            np.float32(top_p),
            np.float32(min_p),
            np.uint64(seed),
            position,
            order,
        )
    )


def exact(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float
) -> NDArray[np.float64]:
    """The distribution that `sample` draws from, as its docstring words it, in float64."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    order = np.argsort(-weights, kind="stable")
    kept = order[: top_k or len(order)]
    reached = np.cumsum(weights[kept]) / weights[kept].sum()
    kept = kept[: int(np.searchsorted(reached, top_p - 1e-9)) + 1]
    kept = kept[weights[kept] >= min_p]
    shares = np.zeros(len(logits))
    shares[kept] = weights[kept]
    return np.asarray(shares / shares.sum())


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 1.0, 0.0),
        (2.0, 3, 1.0, 0.0),
        (1.0, 0, 0.8, 0.0),
        (1.0, 0, 1.0, 0.3),
        (1.3, 5, 0.9, 0.2),
        (1.0, 100, 1.0, 0.0),
        (1.0, 1, 0.5, 0.9),
    ],
)
def test_frequencies_are_those_of_the_exact_distribution(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    draws = 20_000
    found = np.bincount(
        [
            draw(LOGITS, position, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
            for position in range(draws)
        ],
        minlength=len(LOGITS),
    )
    shares = exact(LOGITS, temperature, top_k, top_p, min_p)
    possible = shares > 1e-9
    assert found[~possible].sum() == 0
    chi_square = float(((found - draws * shares)[possible] ** 2 / (draws * shares[possible])).sum())
    # 30 is beyond the 99.99 % quantile for up to 6 degrees of freedom.
    assert chi_square < 30


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=300),
    st.integers(0, 40),
    st.sampled_from([1.0, 0.9, 0.5, 0.01]),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.integers(0, 2**64 - 1),
)
def test_only_tokens_of_the_exact_distribution_are_drawn(
    values: list[float], top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    logits = np.array(values, np.float32)
    shares = exact(logits, 1.0, top_k, top_p + 1e-4, min_p - 1e-4)
    token = draw(logits, 3, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    # Equal logits may stand for each other where float32 rounds them together.
    assert shares[np.isclose(logits, logits[token], atol=1e-5)].sum() > 0


def test_temperature_zero_takes_the_first_of_the_greatest() -> None:
    assert draw(np.array([1.0, 3.0, 3.0], np.float32), 0, temperature=0.0) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_reported(bad: float, temperature: float) -> None:
    assert draw(np.array([0.0, bad, 1.0], np.float32), 0, temperature=temperature) == NOT_FINITE


def test_the_same_seed_and_position_draw_the_same_number_and_others_do_not() -> None:
    numbers = {float(uniform(np.uint64(seed), position)) for seed in range(50) for position in range(50)}
    assert len(numbers) == 2500
    assert uniform(np.uint64(3), 4) == uniform(np.uint64(3), 4)
    assert abs(np.mean(list(numbers)) - 0.5) < 0.02
