"""Add a header to every call, for a proxy or a tracing system on the way, with an interceptor of gRPC."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from cadenza.client import Client


class Details(NamedTuple):
    """What gRPC wants to know of a call; its own class for it is abstract."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class AddHeader(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds one header."""

    def __init__(self, name: str, value: str) -> None:
        self._header = (name, value)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        """Sends the call on."""
        given = client_call_details
        details = Details(
            method=given.method,
            timeout=given.timeout,
            metadata=[*(given.metadata or ()), self._header],
            credentials=given.credentials,
            wait_for_ready=given.wait_for_ready,
            compression=given.compression,
        )
        return continuation(details, request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        """Sends the stream on."""
        return self.intercept_unary_unary(continuation, client_call_details, request)


target = os.environ.get("CADENZA_TARGET", "localhost:8500")
with Client(target, interceptors=[AddHeader("x-team", "search")]) as client:
    print(client.chat("What is the capital of France?", temperature=0).text)
