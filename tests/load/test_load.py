"""The closed loop against a real server, and its figures against hand-made records."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console
from tests.client.scripted import ScriptedServer, piece, queue_full

from cadenza.client import Message
from cadenza.load import (
    LoadPrompt,
    MessageTime,
    RequestRecord,
    closed_loop,
    percentiles,
    print_summary,
    summarise,
)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer().start()
    yield scripted
    scripted.stop()


async def test_every_prompt_is_streamed_and_recorded_in_order(server: ScriptedServer) -> None:
    server.answer = (piece("a", 1), piece("", index=0), piece("bc", 2, 3, 4))
    prompts: list[LoadPrompt] = ["text", [1, 2, 3], [Message("user", "hi")], "more"]
    records = await closed_loop(server.target, prompts, concurrency=2, options={"max_tokens": 4})
    assert [[message.tokens for message in record.messages] for record in records] == [[1, 3]] * 4
    assert [record.tokens for record in records] == [4] * 4
    for record in records:
        assert record.start < record.messages[0].at <= record.messages[1].at <= record.end
    kinds = sorted(request.prompt.WhichOneof("kind") for request in server.requests)  # type: ignore[attr-defined]
    assert kinds == ["chat", "text", "text", "token_ids"]
    assert all(request.parameters.max_tokens == 4 for request in server.requests)  # type: ignore[attr-defined]


async def test_no_more_streams_than_asked_for_run_at_once(server: ScriptedServer) -> None:
    records = await closed_loop(server.target, ["x"] * 6, concurrency=1)
    ends = [record.end for record in records[:-1]]
    assert all(end <= record.start for end, record in zip(ends, records[1:], strict=True))


async def test_a_failed_request_is_recorded_and_the_load_goes_on(server: ScriptedServer) -> None:
    server.failure, server.fails_after = queue_full(1), 1
    records = await closed_loop(server.target, ["x", "y", [2**31]], concurrency=2)
    assert [record.error for record in records] == ["QUEUE_FULL", "QUEUE_FULL", "INVALID_OPTION"]
    summary = summarise(records)
    assert (summary.requests, summary.tokens, summary.ttft) == (0, 0, None)
    assert summary.errors == {"QUEUE_FULL": 2, "INVALID_OPTION": 1}


async def test_a_load_without_streams_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrency is 0"):
        await closed_loop("localhost:1", ["x"], concurrency=0)


def test_the_figures_follow_their_formulas() -> None:
    # Tokens arrive: 2 at 1.0, 1 at 1.5, 3 at 2.5; then 1 at 4.0.
    first = RequestRecord(0.0, [MessageTime(1.0, 2), MessageTime(1.5, 1), MessageTime(2.5, 3)], 3.0)
    second = RequestRecord(1.0, [MessageTime(4.0, 1)], 5.0)
    summary = summarise([first, second])
    assert (summary.requests, summary.errors, summary.tokens) == (2, {}, 7)
    assert (summary.duration, summary.tokens_per_second) == (5.0, 7 / 5)
    assert summary.ttft is not None
    assert (summary.ttft.p50, summary.ttft.mean) == (2.0, 2.0)  # of 1.0 and 3.0
    assert summary.itl is not None
    assert summary.itl.mean == pytest.approx(1.5 / 5)  # of 0, 0.5, 1.0, 0, 0: five gaps of six tokens
    assert summary.itl.p50 == 0.0
    assert summary.tpot is not None
    assert summary.tpot.p50 == (3.0 - 1.0) / 5  # the second request has one token
    assert summary.latency is not None
    assert summary.latency.p99 == pytest.approx(3.99)  # of 3.0 and 4.0


def test_percentiles_are_interpolated_linearly() -> None:
    sample = percentiles([float(value) for value in range(101)])
    assert sample is not None
    assert (sample.p50, sample.p90, sample.p95, sample.p99, sample.mean) == (50, 90, 95, 99, 50)
    between = percentiles([1.0, 2.0])
    assert between is not None
    assert between.p90 == pytest.approx(1.9)
    single = percentiles([7.0])
    assert single is not None
    assert (single.p50, single.p99) == (7.0, 7.0)
    assert percentiles([]) is None


def test_nothing_to_summarise_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        summarise([])


def test_the_table_shows_milliseconds_throughput_and_failures() -> None:
    good = RequestRecord(0.0, [MessageTime(0.5, 1), MessageTime(0.75, 1)], 1.0)
    bad = RequestRecord(0.0, [], 2.0, "QUEUE_FULL")
    screen = io.StringIO()
    print_summary(summarise([good, bad]), Console(file=screen, width=100))
    printed = screen.getvalue()
    assert "time to first token (TTFT)" in printed
    assert "500.0" in printed
    assert "250.0" in printed
    assert "1.0 tokens/s: 2 tokens of 1 requests in 2.00 s, 1 failed: QUEUE_FULL" in printed
