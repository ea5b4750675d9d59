"""The kinds of methods that services have, as one: a coroutine that answers, its request's id first."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, NoReturn, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from cadenza.server.errors import InvalidRequestError, MessageTooLargeError, Reason, RequestError
from cadenza.server.rpc.call import REQUEST_ID_KEY, current_call
from cadenza.server.rpc.intake import Context

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour = Callable[[Any, Context], Awaitable[Any]]
_Generator = Callable[[Any, Context], AsyncIterator[Any]]


class Method(NamedTuple):
    """A method of a service. `kind` is as the metrics of gRPC libraries name it."""

    kind: str
    behaviour: Behaviour
    make_handler: Callable[..., Handler]
    """Of a behaviour, a deserializer and a serializer."""
    is_endless: bool
    """Its caller ends it; nobody should wait for that."""


class Unfit(NamedTuple):
    """Stands for a request that is no message, or too large a one."""

    error: RequestError


def method_of(handler: Handler) -> Method:
    """What a service has registered. Raises NotImplementedError for streams with one answer."""
    if handler.unary_unary is not None:
        behaviour = _unary(cast("Behaviour", handler.unary_unary))
        return Method("unary", behaviour, grpc.unary_unary_rpc_method_handler, False)
    if handler.stream_stream is not None:
        behaviour = _reading(_answering(handler.stream_stream))
        return Method("bidi_stream", behaviour, grpc.stream_stream_rpc_method_handler, True)
    if handler.unary_stream is None:
        raise NotImplementedError("no service here takes a stream and gives one message")
    behaviour = _answering(handler.unary_stream)
    is_endless = not inspect.isasyncgenfunction(handler.unary_stream)
    return Method("server_stream", behaviour, grpc.unary_stream_rpc_method_handler, is_endless)


def tolerant(deserialize: Callable[[bytes], Any], most_bytes: int) -> Callable[[bytes], Any]:
    """A deserializer that gives an Unfit where it would raise, or where a message is longer than that."""

    def parse(data: bytes) -> Any:
        if len(data) > most_bytes:
            return Unfit(MessageTooLargeError(len(data), most_bytes))
        try:
            return deserialize(data)
        except DecodeError as error:
            return Unfit(_malformed(error))

    return parse


def raising(error: RequestError) -> Behaviour:
    """Answers every call with an error."""

    async def run(_request: Any, _context: Context) -> NoReturn:
        raise error

    return run


def _answering(method: Any) -> Behaviour:
    """Of a method that gives its messages, or writes them itself."""
    if inspect.isasyncgenfunction(method):
        return _streaming(cast("_Generator", method))
    return _writing(cast("Behaviour", method))


def _unary(behaviour: Behaviour) -> Behaviour:
    async def run(request: Any, context: Context) -> Any:
        response = await behaviour(request, context)
        await _begin_answer(context)
        return response

    return run


def _streaming(behaviour: _Generator) -> Behaviour:
    async def run(request: Any, context: Context) -> None:
        begun = False
        async with contextlib.aclosing(behaviour(request, context)) as messages:  # type: ignore[type-var]
            async for message in messages:
                if not begun:
                    await _begin_answer(context)
                    begun = True
                await context.write(message)

    return run


def _writing(behaviour: Behaviour) -> Behaviour:
    async def run(request: Any, context: Context) -> None:
        await _begin_answer(context)
        await behaviour(request, context)

    return run


def _reading(behaviour: Behaviour) -> Behaviour:
    """For one that takes a stream."""

    async def run(requests: AsyncIterator[Any], context: Context) -> None:
        await behaviour(_fit(requests), context)

    return run


async def _fit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Unfit):
            raise request.error
        yield request


async def _begin_answer(context: Context) -> None:
    """An error needs no such frame of its own: its request id is in the trailing metadata."""
    await context.send_initial_metadata(((REQUEST_ID_KEY, current_call.get().request_id),))


def _malformed(error: DecodeError) -> InvalidRequestError:
    return InvalidRequestError(
        Reason.MALFORMED_REQUEST,
        "",
        f"the request's bytes are not the message that this method takes ({error}); "
        "strings must be valid UTF-8",
    )
