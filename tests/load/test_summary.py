"""Figures against records made by hand: every formula, exactly."""

import io

import numpy as np
import pytest
from rich.console import Console

from cadenza.load import (
    MessageTime,
    MessageTimes,
    Objectives,
    RequestRecord,
    Window,
    percentiles,
    print_summary,
    summarise,
)


def record(
    scheduled: float,
    messages: list[MessageTime],
    end: float,
    error: str = "",
    sent: float | None = None,
    queue: float | None = None,
) -> RequestRecord:
    times = MessageTimes(messages)
    return RequestRecord(0, scheduled, scheduled if sent is None else sent, times, end, error, queue)


# Tokens arrive: 2 at 1.0, 1 at 1.5, 3 at 2.5; then 1 at 4.0.
SIX_TOKENS = record(0.0, [MessageTime(1.0, 2), MessageTime(1.5, 1), MessageTime(2.5, 3)], 3.0, queue=0.25)
ONE_TOKEN = record(1.0, [MessageTime(4.0, 1)], 5.0, sent=1.5, queue=0.75)


def test_the_figures_follow_their_formulas() -> None:
    summary = summarise([SIX_TOKENS, ONE_TOKEN])
    assert (summary.requests, summary.errors, summary.tokens) == (2, {}, 7)
    assert (summary.duration, summary.tokens_per_second) == (5.0, 7 / 5)
    assert (summary.offered_per_second, summary.completed_per_second) == (2 / 5, 2 / 5)
    assert summary.ttft is not None
    assert (summary.ttft.p50, summary.ttft.mean) == (2.0, 2.0)  # of 1.0 and 3.0
    assert summary.itl is not None
    assert summary.itl.mean == pytest.approx(1.5 / 5)  # of 0, 0.5, 1.0, 0, 0: five gaps of six tokens
    assert (summary.itl.p50, summary.itl.count) == (0.0, 5)
    assert summary.tpot is not None
    assert summary.tpot.p50 == (3.0 - 1.0) / 5  # the second request has one token
    assert summary.latency is not None
    assert summary.latency.p99 == pytest.approx(3.99)  # of 3.0 and 4.0
    assert summary.queue is not None
    assert summary.queue.mean == 0.5
    assert summary.lag is not None
    assert (summary.lag.p50, summary.lag.mean) == (0.25, 0.25)  # of 0 and 0.5


def test_lag_is_part_of_ttft_and_latency() -> None:
    assert ONE_TOKEN.ttft == 3.0  # from when it was scheduled, not from when it was sent
    assert ONE_TOKEN.latency == 4.0


def test_a_window_counts_requests_scheduled_and_tokens_arrived_in_it() -> None:
    late = record(6.0, [MessageTime(6.5, 1)], 7.0)
    summary = summarise([SIX_TOKENS, ONE_TOKEN, late], Window(0.5, 4.5))
    assert summary.requests == 1
    assert summary.latency is not None
    assert summary.latency.mean == 4.0
    assert (summary.tokens, summary.tokens_per_second) == (
        7,
        7 / 4,
    )  # six of the first request, one of the second
    assert (summary.offered_per_second, summary.completed_per_second) == (1 / 4, 1 / 4)


def test_goodput_counts_requests_that_meet_every_objective() -> None:
    refused = record(2.0, [], 2.5, "QUEUE_FULL")
    records = [SIX_TOKENS, ONE_TOKEN, refused]

    def met(**bounds: float) -> int:
        goodput = summarise(records, objectives=Objectives(**bounds)).goodput
        assert goodput is not None
        assert goodput.per_second == goodput.requests / 5.0
        assert goodput.share == goodput.requests / 3
        return goodput.requests

    assert met() == 2
    assert met(ttft=1.0) == 1
    assert met(ttft=0.99) == 0
    assert met(ttft=3.0, tpot=0.4) == 2  # no second token, no TPOT to miss
    assert met(ttft=3.0, tpot=0.39) == 1
    assert met(latency=3.0) == 1
    assert summarise(records).goodput is None


def test_failed_requests_count_as_failures_alone() -> None:
    failed = record(0.0, [MessageTime(1.0, 5)], 2.0, "ENGINE_FAILED", sent=0.5)
    summary = summarise([failed, failed, record(0.0, [], 1.0, "QUEUE_FULL")])
    assert (summary.requests, summary.tokens, summary.ttft, summary.latency) == (0, 0, None, None)
    assert summary.errors == {"ENGINE_FAILED": 2, "QUEUE_FULL": 1}
    assert summary.lag is not None
    assert summary.lag.count == 3


def test_percentiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(1).lognormal(size=1237)
    found = percentiles(values.tolist())
    assert found is not None
    expected = np.percentile(values, [50, 90, 95, 99, 99.9])
    assert [found.p50, found.p90, found.p95, found.p99, found.p999] == pytest.approx(expected, rel=1e-12)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert (found.count, found.at(99.9)) == (1237, found.p999)


def test_percentiles_of_few_values() -> None:
    single = percentiles([7.0])
    assert single is not None
    assert (single.p50, single.p999, single.mean) == (7.0, 7.0, 7.0)
    assert percentiles([]) is None


def test_nothing_to_summarise_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        summarise([])
    with pytest.raises(ValueError, match="no request was scheduled between 8 s and 9 s"):
        summarise([SIX_TOKENS], Window(8.0, 9.0))


def test_the_table_shows_milliseconds_throughput_and_failures() -> None:
    good = record(0.0, [MessageTime(0.5, 1), MessageTime(0.75, 1)], 1.0)
    bad = record(0.0, [], 2.0, "QUEUE_FULL")
    screen = io.StringIO()
    print_summary(summarise([good, bad], objectives=Objectives(ttft=0.6)), Console(file=screen, width=80))
    printed = screen.getvalue()
    assert "500.0" in printed
    assert "1.0 tokens/s and 0.50 requests/s completed, 1.00 requests/s offered, in 2.00 s" in printed
    assert "goodput 0.50 requests/s, 50.0 % of the requests (TTFT <= 600 ms)" in printed
    assert "1 failed: QUEUE_FULL" in printed
