"""Spans for an OpenTelemetry collector: one of a call, and of its requests queue, prefill and decode.

Imported only where tracing is on, for its packages are an extra (`cadenza[tracing]`). The times are those of
responses. No text of prompts and completions is in a span.
"""

import threading
import time
from collections.abc import Iterator, Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.util.types import AttributeValue

from cadenza.server.account import Account
from cadenza.server.rpc.call import Call
from cadenza.server.rpc.call_records import Metadata

_MOST_REQUESTS = 16
"""Of one call, that get spans of their own."""

_FAULTS = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
"""Codes that are a server's errors by OpenTelemetry's conventions for gRPC; the others are their callers'."""

Attributes = dict[str, AttributeValue]


class OpenTelemetryTracer:
    """Hands spans to a processor that works in a thread of its own, bounded, and drops what is too much."""

    def __init__(self, processor: SpanProcessor, *, server_version: str) -> None:
        service: Attributes = {"service.name": "cadenza-server", "service.version": server_version}
        resource = Resource.create(service).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("cadenza.server", server_version)

    @classmethod
    def to_collector(cls, endpoint: str, *, server_version: str) -> "OpenTelemetryTracer":
        """Sends to http://HOST:PORT in plaintext, to https://HOST:PORT by TLS; the rest is in OTEL_*."""
        exporter = OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))
        return cls(BatchSpanProcessor(exporter), server_version=server_version)

    def begin(self, call: Call, metadata: Metadata) -> "CallSpans":
        """Begins the span of a call, in the trace that the caller's metadata name."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        unix_zero = time.time_ns() - round(call.arrival * 1e9)
        span = self._tracer.start_span(
            call.door.span,
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes=call.door.attributes,
            start_time=unix_zero + round(call.arrival * 1e9),
        )
        return CallSpans(self._tracer, span, unix_zero)

    def close(self, seconds: float) -> None:
        """Sends what is left; gives up after the time, for a collector may be gone. Blocks."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(seconds)


class CallSpans:
    """The spans of one call."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span, unix_zero: int) -> None:
        """`unix_zero` is the Unix time in nanoseconds at which the engine's clock was 0."""
        self._tracer = tracer
        self._span = span
        self._unix_zero = unix_zero
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def end(self, call: Call, now: float) -> None:
        """Ends the call's span, `now` on the engine's clock, and makes those of its requests."""
        if self._span.is_recording():
            self._span.set_attributes(_of_call(call))
            if call.code in _FAULTS:
                self._span.set_status(trace.StatusCode.ERROR)
            context = trace.set_span_in_context(self._span)
            for index, account in enumerate(call.accounts[:_MOST_REQUESTS]):
                self._make_phases(index, account, now, context)
        self._span.end(self._unix(now))

    def _make_phases(self, index: int, account: Account, now: float, context: Context) -> None:
        for phase in account.phases(now):
            span = self._tracer.start_span(
                phase.name,
                context=context,
                attributes={"cadenza.request.index": index, **_of_phase(phase.name, account)},
                start_time=self._unix(phase.begin),
            )
            span.end(self._unix(phase.end))

    def _unix(self, seconds: float) -> int:
        return self._unix_zero + round(seconds * 1e9)


def _of_call(call: Call) -> Attributes:
    """The conventions' names: semantic-conventions/docs/rpc, docs/http, docs/gen-ai."""
    attributes: Attributes = {"cadenza.request.id": call.request_id}
    if call.http_status is None:
        attributes["rpc.response.status_code"] = call.code
    else:
        attributes["http.response.status_code"] = call.http_status
    if call.code != "OK":
        attributes["error.type"] = str(call.log.get("reason", call.code))
    if "version" in call.log:
        attributes["gen_ai.request.model"] = str(call.log["model"])
        attributes["gen_ai.response.model"] = f"{call.log['model']}@{call.log['version']}"
    if call.accounts:
        attributes |= dict(_of_generation(call))
    return attributes


def _of_generation(call: Call) -> Iterator[tuple[str, AttributeValue]]:
    """Of all requests of the call together; what they were asked to do is the same for all."""
    request, accounts = call.accounts[0].request, call.accounts
    yield "gen_ai.operation.name", "chat" if call.is_chat else "text_completion"
    yield "gen_ai.provider.name", "cadenza"
    yield "gen_ai.request.max_tokens", request.max_tokens
    yield "gen_ai.request.temperature", request.sampling.temperature
    yield "gen_ai.request.top_p", request.sampling.top_p
    yield "gen_ai.request.top_k", request.sampling.top_k
    yield "gen_ai.request.choice.count", request.n
    yield "gen_ai.request.presence_penalty", request.sampling.presence_penalty
    yield "gen_ai.request.frequency_penalty", request.sampling.frequency_penalty
    yield "gen_ai.response.id", call.request_id
    reasons = [reason.value for account in accounts for reason in account.finish_reasons]
    yield "gen_ai.response.finish_reasons", reasons
    yield "gen_ai.usage.input_tokens", sum(len(one.request.prompt_token_ids) for one in accounts)
    yield "gen_ai.usage.output_tokens", sum(account.completion_tokens for account in accounts)
    cached = sum(account.cached_prompt_tokens for account in accounts)
    yield "gen_ai.usage.cache_read.input_tokens", cached
    yield "cadenza.requests", len(accounts)
    yield "cadenza.preemptions", sum(account.preemptions for account in accounts)


def _of_phase(name: str, account: Account) -> Mapping[str, AttributeValue]:
    match name:
        case "prefill":
            return {
                "gen_ai.usage.input_tokens": len(account.request.prompt_token_ids),
                "gen_ai.usage.cache_read.input_tokens": account.cached_prompt_tokens,
            }
        case "decode":
            return {
                "gen_ai.usage.output_tokens": account.completion_tokens,
                "cadenza.preemptions": account.preemptions,
            }
    return {}
