"""A server of grpc.aio that a method's name cannot stop.

grpc.aio decodes the name of a method that is not registered outside of any handler: one call whose path is
not UTF-8, from whoever reaches the port, ends its loop, and with it the server (seen in grpcio 1.85). Here
calls of methods that are not registered never reach that loop. This is built on grpc's private parts, since
nothing public stands before that line; `tests/security/test_hostile_peers.py` fails where they have changed.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool
from grpc._cython import cygrpc
from grpc.aio import _server

from cadenza.server.rpc.intake import Context

OnUnknown = Callable[[Context], Awaitable[Any]]


def tolerant_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    options: Sequence[tuple[str, int]],
    on_unknown: OnUnknown,
) -> grpc.aio.Server:
    """A server with these interceptors and channel arguments; `on_unknown` must abort the calls it gets."""
    return cast("grpc.aio.Server", _TolerantServer(interceptors, options, on_unknown))


class _TolerantServer(_server.Server):
    """All methods are registered by name, so that the unknown ones can be told from them."""

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, int]],
        on_unknown: OnUnknown,
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, on_unknown, interceptors, options)
        self._registered: set[str] = set()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Registers the methods of services by their descriptors; older generated modules add handlers so."""
        for handler in generic_rpc_handlers:
            service = handler.service_name()  # type: ignore[attr-defined]
            names = [one.name for one in descriptor_pool.Default().FindServiceByName(service).methods]
            found = {name: handler.service(_Details(f"/{service}/{name}")) for name in names}
            self.add_registered_method_handlers(
                service, {name: method for name, method in found.items() if method is not None}
            )

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Registers methods, each once: newer generated modules add them in both ways."""
        new = {
            name: handler
            for name, handler in method_handlers.items()
            if f"{service_name}/{name}" not in self._registered
        }
        self._registered |= {f"{service_name}/{name}" for name in new}
        super().add_registered_method_handlers(service_name, new)


@dataclasses.dataclass
class _Details:
    """Stands for grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Answers calls of unknown methods by itself."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_unknown: OnUnknown,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, int]],
    ) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self._on_unknown = on_unknown
        self._event_loop = loop
        self._calls: set[asyncio.Task[None]] = set()

    async def _request_call(self) -> None:
        """Called by grpc for the next call of an unknown method; cancelled when the server stops."""
        while True:
            state = await super()._request_call()
            call = self._event_loop.create_task(self._answer(state))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _answer(self, state: Any) -> None:
        context = cygrpc._ServicerContext(state, None, None, self._event_loop)  # noqa: SLF001
        answer = self._on_unknown(context)
        await cygrpc._schedule_rpc_coro(answer, state, self._event_loop, "unknown")  # noqa: SLF001
