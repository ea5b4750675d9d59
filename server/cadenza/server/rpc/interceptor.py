"""What every call has in common: a request id, one log line, metrics, and errors that become statuses."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from cadenza.server.errors import DeadlineExceededError, InvalidRequestError, Reason, RequestError
from cadenza.server.metrics import Metrics
from cadenza.server.rpc.call import REQUEST_ID_KEY, Call, current_call, request_id
from cadenza.server.rpc.call_log import CallLog
from cadenza.server.rpc.errors import status_code, trailing_metadata

_log = structlog.get_logger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Behaviour = Callable[[Any, _Context], Awaitable[Any]]


class _InternalError(RequestError):
    """A bug of ours; the trace is in the log."""

    code = "INTERNAL"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            Reason.INTERNAL,
            f"the server failed to answer; report this with the server's log of request {request_id}",
            metadata={"request_id": request_id},
        )


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method that takes one message. `clock` is the engine's, in seconds."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = CallLog(clock)
        self._wrapped: dict[str, _Handler] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self, seconds: float) -> None:
        """Waits until no wrapped call is being answered, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Called by grpc; unknown methods pass through, so `_wrapped` holds only what is registered."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None or handler.request_streaming:
                return handler
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: _Handler) -> _Handler:
        deserialize, serialize = handler.request_deserializer, handler.response_serializer
        parse = _tolerant(deserialize) if deserialize else None
        if handler.unary_unary is not None:
            answer = self._answer(method, "unary", _unary(cast("_Behaviour", handler.unary_unary)))
            return grpc.unary_unary_rpc_method_handler(answer, parse, serialize)
        if not inspect.isasyncgenfunction(handler.unary_stream):
            return handler
        answer = self._answer(method, "server_stream", _streaming(handler.unary_stream))
        return grpc.unary_stream_rpc_method_handler(answer, parse, serialize)

    def _answer(self, method: str, kind: str, behaviour: _Behaviour) -> _Behaviour:
        service, _, name = method.removeprefix("/").partition("/")
        started = self._metrics.rpc_started.labels(kind, service, name)

        async def answer(request: Any, context: _Context) -> Any:
            call = Call(request_id(context.invocation_metadata() or ()), self._clock())
            current_call.set(call)
            structlog.contextvars.bind_contextvars(request_id=call.request_id)
            started.inc()
            self._active += 1
            self._idle.clear()
            try:
                return await self._run(behaviour, request, context, call)
            finally:
                self._metrics.rpc_handled.labels(kind, service, name, call.code).inc()
                self._log.ended(name, call)
                self._active -= 1
                if not self._active:
                    self._idle.set()

        return answer

    async def _run(self, behaviour: _Behaviour, request: Any, context: _Context, call: Call) -> Any:
        try:
            response = await _or_error(behaviour, request, context, call)
            if isinstance(response, RequestError):
                await self._abort(response, context, call)
            call.code = "OK"
        except asyncio.CancelledError:
            call.code = "DEADLINE_EXCEEDED" if _deadline_passed(context) else "CANCELLED"
            raise
        except grpc.aio.AbortError:
            call.code = context.code().name
            raise
        return response

    async def _abort(self, error: RequestError, context: _Context, call: Call) -> NoReturn:
        self._metrics.rejected.labels(error.reason.value).inc()
        call.log["reason"] = error.reason.value
        call.code = error.code  # kept where the client has gone and abort() raises something else
        await context.abort(status_code(error), error.message, trailing_metadata(error, call.request_id))


class _Malformed:
    """Stands for a request whose bytes are no message."""

    def __init__(self, error: DecodeError) -> None:
        self.error = InvalidRequestError(
            Reason.MALFORMED_REQUEST,
            "",
            f"the request's bytes are not the message that this method takes ({error}); "
            "strings must be valid UTF-8",
        )


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return _Malformed(error)

    return parse


async def _or_error(behaviour: _Behaviour, request: Any, context: _Context, call: Call) -> Any:
    """The behaviour's response, or the RequestError that it ended in."""
    if isinstance(request, _Malformed):
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
        return _InternalError(call.request_id)


def _unary(behaviour: _Behaviour) -> _Behaviour:
    async def run(request: Any, context: _Context) -> Any:
        response = await behaviour(request, context)
        await _begin_answer(context)
        return response

    return run


def _streaming(behaviour: Callable[[Any, _Context], AsyncIterator[Any]]) -> _Behaviour:
    async def run(request: Any, context: _Context) -> None:
        begun = False
        async with contextlib.aclosing(behaviour(request, context)) as messages:  # type: ignore[type-var]
            async for message in messages:
                if not begun:
                    await _begin_answer(context)
                    begun = True
                await context.write(message)

    return run


async def _begin_answer(context: _Context) -> None:
    """An error needs no such frame of its own: its request id is in the trailing metadata."""
    await context.send_initial_metadata(((REQUEST_ID_KEY, current_call.get().request_id),))


def _deadline_passed(context: _Context) -> bool:
    remaining: float | None = context.time_remaining()
    return remaining is not None and remaining <= 0
