"""What /metrics says after known work; the arithmetic is the reader's to check."""

import collections
import re

import pytest
from prometheus_client import CollectorRegistry
from tests.server.live import Live, create, stream

from cadenza.server.metrics import WeightedHistogram


async def test_known_requests_give_known_counts(live: Live) -> None:
    await live.text("abc", max_tokens=4)
    await live.text("xy", max_tokens=9)
    values = {
        'cadenza_requests_finished_total{model="tiny",reason="length"}': 1,
        'cadenza_requests_finished_total{model="tiny",reason="stop"}': 1,
        'cadenza_choices_finished_total{model="tiny",reason="length"}': 1,
        'cadenza_choices_finished_total{model="tiny",reason="stop"}': 1,
        "cadenza_prompt_tokens_total": 5,
        "cadenza_cached_prompt_tokens_total": 0,
        "cadenza_generated_tokens_total": 6,
        "cadenza_engine_steps_total": 6,
        'cadenza_engine_step_seconds_count{kind="prefill",model="tiny"}': 2,
        'cadenza_engine_step_seconds_count{kind="decode",model="tiny"}': 4,
        "cadenza_engine_step_failures_total": 0,
        "cadenza_time_to_first_token_seconds_count": 2,
        "cadenza_inter_token_latency_seconds_count": 4,
        "cadenza_time_per_output_token_seconds_count": 2,
        "cadenza_request_queue_seconds_count": 2,
        "cadenza_request_prefill_seconds_count": 2,
        "cadenza_request_decode_seconds_count": 2,
        "cadenza_request_prompt_tokens_sum": 5,
        "cadenza_request_generation_tokens_sum": 6,
        "cadenza_num_requests_running": 0,
        "cadenza_num_requests_waiting": 0,
        "cadenza_kv_cache_usage_ratio": 0,
        'cadenza_model_info{family="llama",model="tiny",precision="int8",version="7"}': 1,
        "cadenza_build_info": 1,
    }
    assert {name: await live.metric(name) for name in values} == values


async def test_gauges_show_a_step_that_is_held(live: Live) -> None:
    live.runner.hold()
    call = live.stub.StreamCompletion(stream("abcde", max_tokens=9))
    live.runner.allow(1)
    await call.read()
    assert await live.metric("cadenza_num_requests_running") == 1
    assert await live.metric("cadenza_engine_batch_tokens{") == 5
    assert await live.metric("cadenza_kv_cache_usage_ratio") > 0
    call.cancel()


async def test_calls_are_counted_by_method_and_code(live: Live) -> None:
    await live.still_serves()
    with pytest.raises(Exception, match="temperature"):
        await live.stub.CreateCompletion(create("a", temperature=-1))
    labels = 'grpc_method="CreateCompletion",grpc_service="cadenza.v1.CompletionService",grpc_type="unary"}'
    assert await live.metric("grpc_server_started_total{" + labels) == 2
    assert await live.metric('grpc_server_handled_total{grpc_code="OK",' + labels) == 1
    assert await live.metric('grpc_server_handled_total{grpc_code="INVALID_ARGUMENT",' + labels) == 1
    assert await live.metric('cadenza_requests_rejected_total{reason="FIELD_OUT_OF_RANGE"}') == 1


async def test_what_alerts_count_is_there_before_it_first_happens(live: Live) -> None:
    """rate() and increase() do not see a counter's first value."""
    _, text = await live.get("/metrics")
    for series in (
        'cadenza_requests_rejected_total{reason="QUEUE_FULL"} 0.0',
        'cadenza_requests_failed_total{cause="step_failed",model="tiny"} 0.0',
        'cadenza_engine_failures_total{model="tiny"} 0.0',
    ):
        assert series in text


async def test_metrics_page_is_in_the_format_that_prometheus_asks_for(live: Live) -> None:
    status, text = await live.get("/metrics")
    assert status == 200
    assert "# TYPE cadenza_engine_batch_tokens gauge" in text
    assert (await live.get("/nosuch"))[0] == 404


async def test_times_in_metrics_are_those_of_the_response(live: Live) -> None:
    timing = (await live.stub.CreateCompletion(create("abc", max_tokens=4))).timing
    told = {
        "cadenza_request_queue_seconds_sum": timing.queue,
        "cadenza_request_prefill_seconds_sum": timing.prefill,
        "cadenza_request_decode_seconds_sum": timing.decode,
        "cadenza_time_to_first_token_seconds_sum": timing.time_to_first_token,
    }
    for name, duration in told.items():
        assert await live.metric(name) == pytest.approx(duration.ToNanoseconds() / 1e9, abs=2e-9)


async def test_histograms_of_seconds_begin_at_half_a_millisecond_and_have_edges_at_the_objectives(
    live: Live,
) -> None:
    await live.text("abc", max_tokens=4)
    _, text = await live.get("/metrics")
    edges: dict[str, set[float]] = collections.defaultdict(set)
    for name, edge in re.findall(r'^(cadenza_\w+_seconds)_bucket\{.*le="([^"]+)"', text, re.MULTILINE):
        edges[name].add(float(edge))
    assert len(edges) == 8
    for name, found in edges.items():
        assert min(found) == 0.0005, name
        assert found >= {0.02, 0.03, 0.04, 0.05, 0.08, 0.1, 0.2, 0.45, 0.5, 2}, name


def test_weighted_histogram_counts_like_so_many_single_values() -> None:
    registry = CollectorRegistry()
    series = WeightedHistogram("seconds", "Text.", (0.1, 0.2), registry).series("m")
    series.observe(0.1, 3)
    series.observe(0.15)
    series.observe(9.0, 2)
    read = {
        bound: registry.get_sample_value("seconds_bucket", {"model": "m", "le": bound})
        for bound in ("0.1", "0.2", "+Inf")
    }
    assert read == {"0.1": 3, "0.2": 4, "+Inf": 6}
    assert registry.get_sample_value("seconds_sum", {"model": "m"}) == pytest.approx(18.45)
