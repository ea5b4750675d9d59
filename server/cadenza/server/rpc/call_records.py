"""What every call leaves behind, whichever door it came by: lines in the log, and spans where they are on."""

from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from cadenza.server.rpc.call import Call, CallSpan, current_call
from cadenza.server.rpc.call_log import CallLog

Metadata = Iterable[tuple[str, str | bytes]]


class Tracer(Protocol):
    """Makes spans of calls; cadenza.server.tracing has it."""

    def begin(self, call: Call, metadata: Metadata) -> CallSpan:
        """The span of a call; the caller's metadata say which trace it belongs to."""
        ...

    def close(self, seconds: float) -> None:
        """Sends what is left, within the time. Blocks."""
        ...


class CallRecords:
    """`clock` is the engine's, in seconds; without a tracer there are no spans."""

    def __init__(
        self, clock: Callable[[], float], *, slow_seconds: float = 0.0, tracer: Tracer | None = None
    ) -> None:
        self._clock = clock
        self._log = CallLog(clock, slow_seconds=slow_seconds)
        self._tracer = tracer

    def begin(self, call: Call, metadata: Metadata) -> None:
        """The task that runs answers this call from now on; what it logs has the call's ids."""
        current_call.set(call)
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        if self._tracer is not None and call.door.is_traced:
            call.span = self._tracer.begin(call, metadata)
            structlog.contextvars.bind_contextvars(trace_id=call.span.trace_id)

    def end(self, call: Call) -> None:
        """The call has ended; its `code` and `http_status` are known."""
        self._log.ended(call)
        if call.span is not None:
            call.span.end(call, self._clock())
