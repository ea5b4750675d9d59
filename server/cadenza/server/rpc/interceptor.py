"""What every call has in common: a request id, one log line, metrics, and errors that become statuses."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, Protocol

import grpc
import structlog

from cadenza.server.errors import (
    DeadlineExceededError,
    MethodNotFoundError,
    RequestError,
    UnauthenticatedError,
    UnexpectedError,
)
from cadenza.server.metrics import Metrics
from cadenza.server.rpc.behaviours import Behaviour, Handler, Unfit, method_of, raising, tolerant
from cadenza.server.rpc.call import Call, Door, current_call, request_id
from cadenza.server.rpc.call_records import CallRecords
from cadenza.server.rpc.errors import status_code, trailing_metadata
from cadenza.server.rpc.intake import Context

_log = structlog.get_logger(__name__)

_OPEN = "/grpc.health.v1.Health/"
"""Methods that begin so are answered to everyone."""

_UNTRACED = ("grpc.", "unknown")
"""Services that begin so have no spans: probes come all the time, and anybody can call what is not there."""

_admitted: contextvars.ContextVar[str | None] = contextvars.ContextVar("_admitted", default=None)
"""The name of the token that the call being answered has shown."""


class Callers(Protocol):
    """Who may call; `Credentials` knows."""

    def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
        """The name that the metadata prove. Raises UnauthenticatedError."""
        ...

    def certified(self, context: Context) -> str | None:
        """The name that the connection's certificate proves."""
        ...


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of one server. `clock` is the engine's, in seconds.

    Without `callers` everyone may call; with them, who may not is refused before the request is read.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        records: CallRecords,
        *,
        max_message_bytes: int,
        callers: Callers | None = None,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._records = records
        self._max_message_bytes = max_message_bytes
        self._callers = callers
        self._wrapped: dict[str, tuple[str, Handler]] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self, seconds: float) -> None:
        """Waits until no call is being answered but those that never end by themselves, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Called by grpc, in the task that then answers the call."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(method, handler)
        kind, handler = self._wrapped[method]
        if self._callers is None or method.startswith(_OPEN):
            return handler
        try:
            _admitted.set(self._callers.admit(handler_call_details.invocation_metadata))
        except UnauthenticatedError as error:
            # It takes a stream, so that grpc does not wait for the request.
            return grpc.stream_stream_rpc_method_handler(self._answer(method, kind, raising(error)))
        return handler

    async def answer_part(
        self, behaviour: Behaviour, request: Any, context: Context, call: Call
    ) -> RequestError | None:
        """Answers one of the requests that a stream carries; like a call it is logged and waited for.

        Gives the error that it ended in. `call` is the request's, not the stream's.
        """
        call.door = dataclasses.replace(current_call.get().door, is_traced=True)
        self._records.begin(call, context.invocation_metadata() or ())
        self._enter(1)
        try:
            outcome = await _or_error(behaviour, request, context, call)
        except asyncio.CancelledError:
            call.code = _code_of_cancelled(context)
            raise
        else:
            if isinstance(outcome, RequestError):
                self._refuse(outcome, call)
                return outcome
            call.code = "OK"
            return None
        finally:
            self._records.end(call)
            self._enter(-1)

    async def answer_unknown(self, context: Context) -> None:
        """Refuses a call of a method that the server has not."""
        error: RequestError = MethodNotFoundError()
        if self._callers is not None:
            try:
                self._callers.admit(context.invocation_metadata() or ())
            except UnauthenticatedError as refusal:
                error = refusal
        await self._answer("/unknown/unknown", "unary", raising(error))(None, context)

    def _wrap(self, method: str, handler: Handler) -> tuple[str, Handler]:
        """The method's kind, and what answers it."""
        kind, behaviour, make_handler, is_endless = method_of(handler)
        deserialize = handler.request_deserializer
        parse = tolerant(deserialize, self._max_message_bytes) if deserialize else None
        answer = self._answer(method, kind, behaviour, is_endless=is_endless)
        return kind, make_handler(answer, parse, handler.response_serializer)

    def _answer(self, method: str, kind: str, behaviour: Behaviour, *, is_endless: bool = False) -> Behaviour:
        service, _, name = method.removeprefix("/").partition("/")
        started = self._metrics.rpc_started.labels(kind, service, name)
        door = Door.of_grpc(service, name, is_traced=not (is_endless or service.startswith(_UNTRACED)))

        async def answer(request: Any, context: Context) -> Any:
            metadata = context.invocation_metadata() or ()
            call = Call(request_id(metadata), self._clock(), client=self._client(context), door=door)
            self._records.begin(call, metadata)
            started.inc()
            self._enter(0 if is_endless else 1)
            try:
                return await self._run(behaviour, request, context, call)
            finally:
                self._metrics.rpc_handled.labels(kind, service, name, call.code).inc()
                self._records.end(call)
                self._enter(0 if is_endless else -1)

        return answer

    def _enter(self, calls: int) -> None:
        """So many more are being answered, or fewer."""
        self._active += calls
        if self._active:
            self._idle.clear()
        else:
            self._idle.set()

    def _client(self, context: Context) -> str | None:
        """A token says more of who calls than the connection that it came by."""
        return _admitted.get() or (self._callers.certified(context) if self._callers else None)

    async def _run(self, behaviour: Behaviour, request: Any, context: Context, call: Call) -> Any:
        try:
            response = await _or_error(behaviour, request, context, call)
            if isinstance(response, RequestError):
                await self._abort(response, context, call)
            call.code = "OK"
        except asyncio.CancelledError:
            call.code = _code_of_cancelled(context)
            raise
        except grpc.aio.AbortError:
            call.code = context.code().name
            raise
        return response

    async def _abort(self, error: RequestError, context: Context, call: Call) -> NoReturn:
        self._refuse(error, call)
        await context.abort(status_code(error), error.message, trailing_metadata(error, call.request_id))

    def _refuse(self, error: RequestError, call: Call) -> None:
        """Counts it; the code is kept where the client has gone and abort() raises something else."""
        self._metrics.rejected.labels(error.reason.value).inc()
        call.log["reason"] = error.reason.value
        call.code = error.code


async def _or_error(behaviour: Behaviour, request: Any, context: Context, call: Call) -> Any:
    """The behaviour's response, or the RequestError that it ended in."""
    if isinstance(request, Unfit):
        return request.error
    try:
        return await behaviour(request, context)
    except RequestError as error:
        return error
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001 whatever it is, the caller gets a typed answer
        if _deadline_passed(context):
            return DeadlineExceededError()
        _log.exception("call_failed", exc_info=error)
        return UnexpectedError(call.request_id)


def _code_of_cancelled(context: Context) -> str:
    return "DEADLINE_EXCEEDED" if _deadline_passed(context) else "CANCELLED"


def _deadline_passed(context: Context) -> bool:
    remaining: float | None = context.time_remaining()
    return remaining is not None and remaining <= 0
