"""Arrival processes against what is known of their distributions. Seeds are fixed: nothing here is luck."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from cadenza.load._arrivals import EVEN, Rate, Renewal, Replay


def gaps(shape: float, rate: float = 50.0, seconds: float = 400.0) -> npt.NDArray[np.float64]:
    times = list(Renewal(Rate(rate, rate, seconds), shape, seed=11).times())
    return np.diff(np.array([0.0, *times]))


def test_poisson_gaps_are_exponential() -> None:
    found = np.sort(gaps(1.0))
    expected = 1 - np.exp(-50.0 * found)
    distance = np.max(np.abs(expected - np.arange(1, len(found) + 1) / len(found)))
    assert distance < 1.63 / math.sqrt(len(found))  # Kolmogorov-Smirnov at the 1 % level


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_burstiness_asked_for(shape: float) -> None:
    found = gaps(shape)
    assert found.mean() == pytest.approx(1 / 50, rel=0.03)
    assert found.std() / found.mean() == pytest.approx(1 / math.sqrt(shape), rel=0.03)


def test_gamma_gaps_have_the_quantiles_of_numpys_gamma() -> None:
    theirs = np.random.default_rng(5).gamma(0.5, 1 / (0.5 * 50.0), size=200_000)
    shares = [0.25, 0.5, 0.75, 0.95]
    assert np.quantile(gaps(0.5), shares) == pytest.approx(np.quantile(theirs, shares), rel=0.06)


def test_a_constant_rate_is_evenly_spaced() -> None:
    assert list(Renewal(Rate(4, 4, 1.1), EVEN).times()) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_ramp_sends_what_its_rate_integrates_to() -> None:
    times = list(Renewal(Rate(0, 100, 10), EVEN).times())
    # The integral of 10 t is 5 t**2: half of all 500 arrive in the last 10 * (1 - sqrt(1/2)) seconds.
    assert [round(5 * at**2, 6) for at in times[:4]] == [1, 2, 3, 4]
    assert sum(at < 10 * math.sqrt(0.5) for at in times) == pytest.approx(250, abs=1)


def test_a_falling_ramp_ends_where_its_rate_does() -> None:
    times = list(Renewal(Rate(100, 0, 10), EVEN).times())
    assert len(times) == pytest.approx(500, abs=1)
    assert max(times) < 10
    assert Rate(100, 0, 10).time_of(501) == math.inf


def test_a_poisson_ramp_is_uniform_under_its_integral() -> None:
    ramp = Rate(10, 190, 100)
    times = np.array(list(Renewal(ramp, 1.0, seed=3).times()))
    shares = np.sort((10 * times + 0.9 * times**2) / ramp.count())
    distance = np.max(np.abs(shares - np.arange(1, len(shares) + 1) / len(shares)))
    assert distance < 1.63 / math.sqrt(len(shares))


def test_every_call_gives_the_same_times_and_every_seed_others() -> None:
    arrivals = Renewal(Rate(9, 9, 5), 1.0, seed=1)
    assert list(arrivals.times()) == list(arrivals.times())
    assert list(arrivals.times()) != list(Renewal(Rate(9, 9, 5), 1.0, seed=2).times())


def test_a_trace_is_replayed_up_to_its_end() -> None:
    assert list(Replay((0.0, 0.5, 0.5, 2.0), seconds=2.0).times()) == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rate(0, 0, 1), "the rate is 0 to 0"),
        (lambda: Rate(-1, 5, 1), "the rate is -1 to 5"),
        (lambda: Rate(1, math.inf, 1), "the rate is 1 to inf"),
        (lambda: Rate(1, 1, 0), "the load lasts 0 s"),
        (lambda: Renewal(Rate(1, 1, 1), 0.0), "the burstiness is 0"),
        (lambda: Replay((2.0, 1.0), 3.0), "do not ascend"),
    ],
)
def test_what_is_no_schedule_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
