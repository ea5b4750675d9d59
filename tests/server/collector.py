"""An OpenTelemetry collector of a test's own: it takes spans by OTLP over gRPC and keeps them."""

import concurrent.futures
import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(otlp_grpc.TraceServiceServicer):
    """What has come so far."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.requests: list[otlp.ExportTraceServiceRequest] = []

    def Export(self, request: Any, context: Any) -> otlp.ExportTraceServiceResponse:  # noqa: N802
        self.requests.append(request)
        return otlp.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        """In the order in which they came."""
        scopes = [
            scope
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
        ]
        return [span for scope in scopes for span in scope.spans]

    @property
    def service(self) -> str:
        """Whose spans the last ones are."""
        return str(values(self.requests[-1].resource_spans[0].resource.attributes)["service.name"])


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as Python has them."""
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind or "string_value")


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    kept = Collector()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=2))
    otlp_grpc.add_TraceServiceServicer_to_server(kept, server)  # type: ignore[no-untyped-call]
    kept.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield kept
    finally:
        server.stop(grace=None).wait()
