"""The search for the highest rate that meets the objectives, on servers whose answer is known."""

import pytest
from tests.load.measured import OBJECTIVES, run

from cadenza.load._measure import Measured
from cadenza.load._objectives import Objectives
from cadenza.load._sweep import MAX_RUNS, Criterion, search, visit

AT_P99 = Criterion(OBJECTIVES, 99.0)


class Server:
    """Meets the objectives up to a rate."""

    def __init__(self, knee: float) -> None:
        self.knee = knee
        self.asked: list[float] = []

    async def __call__(self, rate: float) -> Measured:
        self.asked.append(rate)
        return run(0.2 if rate <= self.knee else 0.8, rate=rate)


@pytest.mark.parametrize("knee", [1.0, 3.3, 7.3, 19.0])
async def test_the_search_ends_within_its_tolerance_of_the_truth(knee: float) -> None:
    server = Server(knee)
    sweep = await search(server, 1.0, 64.0, AT_P99)
    assert sweep.best is not None
    assert sweep.best <= knee < sweep.best * 1.05 + 1e-9
    assert len(server.asked) < 12
    assert [found.rate for found in sweep.runs] == sorted(server.asked)


async def test_a_server_that_meets_every_rate_is_asked_for_no_more_than_the_highest() -> None:
    server = Server(1000.0)
    assert (await search(server, 1.0, 10.0, AT_P99)).best == 10.0
    assert server.asked == [1.0, 2.0, 4.0, 8.0, 10.0]


async def test_a_server_that_misses_the_lowest_rate_has_no_best() -> None:
    server = Server(0.5)
    assert (await search(server, 1.0, 10.0, AT_P99)).best is None
    assert server.asked == [1.0]


async def test_the_search_is_bounded() -> None:
    server = Server(3.3)
    await search(server, 1.0, 64.0, AT_P99, tolerance=0.0)
    assert len(server.asked) == MAX_RUNS


async def test_given_rates_are_all_visited() -> None:
    server = Server(3.0)
    sweep = await visit(server, [4.0, 1.0, 2.0], AT_P99)
    assert server.asked == [4.0, 1.0, 2.0]
    assert (sweep.best, [found.rate for found in sweep.runs]) == (2.0, [1.0, 2.0, 4.0])


def test_a_rate_is_met_where_every_objective_is_at_the_percentile() -> None:
    assert AT_P99.met_by(run(0.499, 0.0499))
    assert not AT_P99.met_by(run(0.51, 0.02))
    assert not AT_P99.met_by(run(0.2, 0.06))
    assert not Criterion(Objectives(latency=0.2)).met_by(run(0.2, 0.02))


def test_failures_count_against_a_rate_and_an_invalid_run_meets_nothing() -> None:
    assert not AT_P99.met_by(run(failed=1))
    assert Criterion(OBJECTIVES, 95.0).met_by(run(failed=1))
    assert not Criterion(OBJECTIVES, 50.0).met_by(run(failed=20))
    assert not AT_P99.met_by(run(invalid=["late"]))
