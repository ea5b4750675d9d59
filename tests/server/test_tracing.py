"""What calls become in a trace: spans, their times and attributes, and whose trace they belong to."""

import dataclasses
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, format_span_id, format_trace_id
from tests.http.clients import body, connect
from tests.kserve.client import Conversation, infer_request
from tests.server.collector import collector, values
from tests.server.live import Live, create, health_stub, live_server, rest, settings, stream
from tests.server.scripted_runner import LIMITS, ScriptedRunner

from cadenza.server.app import Server
from cadenza.server.errors import StartupError
from cadenza.server.tracing import OpenTelemetryTracer
from cadenza.v1 import completion_pb2 as pb

SERVICE = "cadenza.v1.CompletionService"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@dataclasses.dataclass
class Traced:
    """A live server and the spans that it made."""

    live: Live
    exporter: InMemorySpanExporter

    async def ended(self, count: int) -> list[ReadableSpan]:
        """The spans once so many gRPC calls have ended; those of a call's phases come before its own."""
        await self.live.until("grpc_server_handled_total{", count)
        return list(self.exporter.get_finished_spans())


@asynccontextmanager
async def traced(artifact: Path, runner: ScriptedRunner, **changes: Any) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()

    def make_tracer(*_: object) -> OpenTelemetryTracer:
        return OpenTelemetryTracer(SimpleSpanProcessor(exporter), server_version="1")

    async with live_server(artifact, runner, make_tracer=make_tracer, **changes) as live:
        yield Traced(live, exporter)


async def test_a_call_has_a_span_and_its_request_one_for_each_phase(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with traced(artifact, runner) as server:
        response = await server.live.stub.CreateCompletion(
            create("abc", max_tokens=4), metadata=(("traceparent", TRACEPARENT),)
        )
        *phases, call = await server.ended(1)
    assert (call.name, call.kind) == (f"{SERVICE}/CreateCompletion", SpanKind.SERVER)
    assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
    assert format_trace_id(_context(call).trace_id) == TRACE
    assert format_span_id(_parent(call).span_id) == PARENT
    assert {_parent(phase).span_id for phase in phases} == {_context(call).span_id}
    timing = response.timing
    told = [part.ToNanoseconds() for part in (timing.queue, timing.prefill, timing.decode)]
    assert [_nanoseconds(phase) for phase in phases] == pytest.approx(told, abs=2)
    assert phases[0].start_time == pytest.approx(call.start_time, abs=2)
    assert [phase.start_time for phase in phases[1:]] == [phase.end_time for phase in phases[:-1]]


async def test_attributes_say_what_was_asked_and_used_by_the_conventions_names(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with traced(artifact, runner) as server:
        request = create("secret", max_tokens=3, temperature=0.5, top_k=7, n=2)
        response = await server.live.stub.CreateCompletion(request)
        *phases, call = await server.ended(1)
    attributes = dict(call.attributes or {})
    wanted = {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/CreateCompletion",
        "rpc.response.status_code": "OK",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "cadenza",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny@7",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.id": response.request_id,
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.input_tokens": 6,
        "gen_ai.usage.output_tokens": 6,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "cadenza.preemptions": 0,
    }
    assert {name: attributes.get(name) for name in wanted} == wanted
    conventions = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    assert {name for name in attributes if name.startswith("gen_ai.")} <= conventions
    assert not [span for span in [call, *phases] if "secret" in span.to_json()]


async def test_a_chat_is_told_from_a_text(artifact: Path, runner: ScriptedRunner) -> None:
    async with traced(artifact, runner) as server:
        prompt = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="a")]))
        parameters = pb.CompletionParameters(max_tokens=1)
        await server.live.stub.CreateCompletion(
            pb.CreateCompletionRequest(prompt=prompt, parameters=parameters)
        )
        *_, call = await server.ended(1)
    assert dict(call.attributes or {})["gen_ai.operation.name"] == "chat"


async def test_what_leaves_early_has_the_phases_that_it_reached(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with traced(artifact, runner) as server:
        runner.hold()
        leaving = server.live.stub.StreamCompletion(stream("a", max_tokens=100))
        runner.allow(2)
        await leaving.read()
        leaving.cancel()
        queue, prefill, decode, call = await server.ended(1)
    assert dict(call.attributes or {})["rpc.response.status_code"] == "CANCELLED"
    assert [span.name for span in (queue, prefill, decode)] == ["queue", "prefill", "decode"]
    assert decode.end_time == call.end_time


async def test_refusals_name_their_reason_and_only_the_servers_faults_are_errors(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with traced(artifact, runner) as server:
        with pytest.raises(grpc.aio.AioRpcError):
            await server.live.stub.CreateCompletion(create("a", temperature=-1))
        (refused,) = await server.ended(1)
        runner.fail(1)
        with pytest.raises(grpc.aio.AioRpcError):
            await server.live.stub.CreateCompletion(create("a"))
        failed = (await server.ended(2))[-1]
    assert dict(refused.attributes or {})["error.type"] == "FIELD_OUT_OF_RANGE"
    assert refused.status.status_code is StatusCode.UNSET
    assert dict(failed.attributes or {})["error.type"] == "ENGINE_FAILED"
    assert failed.status.status_code is StatusCode.ERROR


async def test_http_calls_belong_to_the_trace_that_their_headers_name(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with traced(artifact, runner) as server:
        async with connect(server.live) as raw:
            await raw.post(
                "/v1/completions",
                body(model="tiny", prompt=["a", "b"], max_tokens=2),
                {"traceparent": TRACEPARENT},
            )
            status, _, _ = await raw.answer()
        await server.live.until("cadenza_http_requests_total{", 1)
        *phases, call = server.exporter.get_finished_spans()
    assert (status, call.name, format_trace_id(_context(call).trace_id)) == (
        200,
        "POST /v1/completions",
        TRACE,
    )
    attributes = dict(call.attributes or {})
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/v1/completions", 200)
    assert attributes["cadenza.requests"] == 2
    indices = [dict(phase.attributes or {})["cadenza.request.index"] for phase in phases]
    assert indices == [0, 0, 0, 1, 1, 1]


async def test_every_request_of_a_kserve_stream_has_a_span_like_a_call(
    artifact: Path, runner: ScriptedRunner
) -> None:
    async with traced(artifact, runner) as server:
        talk = Conversation(server.live.channel, metadata=(("traceparent", TRACEPARENT),))
        await talk.all_of(*(infer_request(letter, sampling={"max_tokens": 2}) for letter in "ak"))
        spans = await server.ended(1)
    calls = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [call.name for call in calls] == ["inference.GRPCInferenceService/ModelStreamInfer"] * 2
    for call in calls:
        assert format_span_id(_parent(call).span_id) == PARENT
        phases = [span for span in spans if span.parent and span.parent.span_id == _context(call).span_id]
        assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]


async def test_preemptions_are_told(artifact: Path) -> None:
    runner = ScriptedRunner(limits=dataclasses.replace(LIMITS, num_blocks=8, max_context=32))
    async with traced(artifact, runner) as server:
        runner.hold()
        calls = [
            server.live.stub.StreamCompletion(stream("a" * 8, max_tokens=20, ignore_eos=True)) for _ in "ab"
        ]
        await server.live.until("cadenza_num_requests_waiting", 2)
        runner.allow()
        for call in calls:
            await rest(call)
        spans = await server.ended(2)
        preempted = await server.live.metric("cadenza_preemptions_total")
    of_calls = [span for span in spans if span.kind is SpanKind.SERVER]
    told = [dict(span.attributes or {})["cadenza.preemptions"] for span in of_calls]
    assert preempted > 0
    assert sum(map(int, map(str, told))) == preempted


async def test_probes_have_no_spans(artifact: Path, runner: ScriptedRunner) -> None:
    async with traced(artifact, runner) as server:
        await health_stub(server.live.channel).Check(health_pb2.HealthCheckRequest())
        assert await server.ended(1) == []


async def test_a_trace_that_is_not_sampled_costs_no_spans_and_still_marks_the_log(
    artifact: Path, runner: ScriptedRunner
) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        async with traced(artifact, runner, slow_request_seconds=1e-9) as server:
            await server.live.stub.CreateCompletion(
                create("a"), metadata=(("traceparent", TRACEPARENT[:-1] + "0"), ("x-request-id", "mine"))
            )
            assert await server.ended(1) == []
    marked = [line for line in lines if line["event"] in ("call", "slow_request")]
    assert [(line["event"], line["request_id"], line["trace_id"]) for line in marked] == [
        ("call", "mine", TRACE),
        ("slow_request", "mine", TRACE),
    ]


async def test_a_collector_gets_all_spans_before_the_server_has_stopped(
    artifact: Path, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine")
    with collector() as kept:
        async with live_server(artifact, runner, otlp_endpoint=kept.endpoint) as live:
            response = await live.stub.CreateCompletion(create("abc", max_tokens=4))
        *phases, call = kept.spans
        assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
        assert call.name == f"{SERVICE}/CreateCompletion"
        attributes = values(call.attributes)
        assert attributes["gen_ai.usage.output_tokens"] == response.usage.completion_tokens
        assert attributes["gen_ai.response.finish_reasons"] == ["length"]
        assert kept.service == "mine"


async def test_a_collector_that_is_gone_holds_up_nothing(
    artifact: Path, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    async with live_server(artifact, runner, otlp_endpoint=endpoint) as live:
        await live.still_serves()


async def test_a_server_without_the_packages_says_what_to_install(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cadenza.server.tracing", None)
    chosen = settings(model=(f"tiny={artifact}",), otlp_endpoint="http://localhost:4317")
    with pytest.raises(StartupError, match=r"cadenza\[tracing\]"):
        Server(chosen)


def _context(span: ReadableSpan) -> SpanContext:
    context: SpanContext | None = span.context
    assert context is not None
    return context


def _parent(span: ReadableSpan) -> SpanContext:
    assert span.parent is not None
    return span.parent


def _nanoseconds(span: ReadableSpan) -> int:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.end_time - span.start_time
