"""What all calls of the API have in common: ids, who asks, the log, metrics, errors, clients that leave."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from cadenza.server.errors import (
    InvalidRequestError,
    MessageTooLargeError,
    Reason,
    RequestError,
    UnexpectedError,
)
from cadenza.server.http import errors
from cadenza.server.http.sending import Answer, event, to_json
from cadenza.server.metrics import Metrics
from cadenza.server.rpc.call import Call, Door, client_id, request_id
from cadenza.server.rpc.call_records import CallRecords

_log = structlog.get_logger(__name__)
_BODY_SECONDS = 30.0
"""How long a client may take to send its request."""


class Callers(Protocol):
    """Who may call; `Credentials` knows."""

    def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
        """The name that the headers prove. Raises UnauthenticatedError."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Incoming:
    """A request that may be answered."""

    call: Call
    path_params: dict[str, str]
    headers: Headers
    host: str
    body: bytes

    def client(self, user: str | None) -> str:
        """Between whom the engine shares its work: a proved name, else `user`, a header, or the host.

        Raises InvalidRequestError for a header that is no name.
        """
        if self.call.client:
            return self.call.client
        if user:
            return user.encode("unicode_escape").decode()[:128]
        return client_id(self.headers.items(), f"ipv4:{self.host}:0")


Respond = Callable[[Incoming, Answer], Awaitable[None]]


class _ClientGoneError(Exception):
    """The client has closed the connection before its request was whole."""


class Calls:
    """Makes ASGI applications of functions that answer. `clock` is the engine's, in seconds."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        records: CallRecords,
        callers: Callers,
        *,
        max_body_bytes: int,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._records = records
        self._callers = callers
        self._max_body_bytes = max_body_bytes

    def endpoint(self, path: str, respond: Respond) -> "Endpoint":
        """The application of one path."""
        return Endpoint(self, path, respond)

    async def answer(self, path: str, respond: Respond, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one call, whatever happens."""
        headers = Headers(scope=scope)
        call = Call(request_id(headers.items()), self._clock(), door=Door.of_http(scope["method"], path))
        self._records.begin(call, headers.items())
        answer = Answer(send, call.request_id)
        try:
            await self._run(respond, scope, receive, answer, headers, call)
        except asyncio.CancelledError:
            call.code = "CANCELLED"
            raise
        finally:
            call.http_status = _status(call, answer)
            self._metrics.http_requests.labels(path, call.http_status).inc()
            self._records.end(call)

    async def _run(
        self, respond: Respond, scope: Scope, receive: Receive, answer: Answer, headers: Headers, call: Call
    ) -> None:
        try:
            call.client = self._callers.admit(headers.items())
            body = await self._body(receive)
            host = scope["client"][0] if scope.get("client") else ""
            incoming = Incoming(call, scope.get("path_params", {}), headers, host, body)
            is_whole = await _unless_gone(respond(incoming, answer), receive)
            call.code = "OK" if is_whole else "CANCELLED"
        except _ClientGoneError:
            call.code = "CANCELLED"
        except RequestError as error:
            await self._refuse(error, answer, call)
        except Exception as error:  # noqa: BLE001 whatever it is, the caller gets a typed answer
            _log.exception("call_failed", exc_info=error)
            await self._refuse(UnexpectedError(call.request_id), answer, call)

    async def _refuse(self, error: RequestError, answer: Answer, call: Call) -> None:
        """As the answer's status, or as the last event of one that has begun."""
        self._metrics.rejected.labels(error.reason.value).inc()
        call.log["reason"] = error.reason.value
        call.code = error.code
        content = errors.content(error)
        if answer.status:
            await answer.end_broken(event(to_json(content)))
        else:
            await answer.whole(content, errors.status(error), errors.headers(error))

    async def _body(self, receive: Receive) -> bytes:
        """Raises MessageTooLargeError, _ClientGoneError, and InvalidRequestError for a slow one."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._max_body_bytes:
                        raise MessageTooLargeError(size, self._max_body_bytes)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            raise InvalidRequestError(
                Reason.MALFORMED_REQUEST,
                "",
                f"the request's body has not come within {_BODY_SECONDS:g} seconds; send it faster",
            ) from error


class Endpoint:
    """The ASGI application of one path."""

    def __init__(self, calls: Calls, path: str, respond: Respond) -> None:
        self._calls = calls
        self._path = path
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server."""
        await self._calls.answer(self._path, self._respond, scope, receive, send)


async def _unless_gone(work: Awaitable[None], receive: Receive) -> bool:
    """Does the work, or drops it when the client closes the connection; returns whether it was done."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_leaves(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(asyncio.wait((task, leaving)))
    if task.cancelled():
        return False
    task.result()
    return True


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _status(call: Call, answer: Answer) -> int:
    """As nginx counts them: 499 where the client left."""
    return 499 if call.code == "CANCELLED" else answer.status
