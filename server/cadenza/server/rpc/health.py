"""grpc.health.v1: what the server's health is, asked once or watched.

A watch never ends by itself, so a proxy that balances calls would keep one open to a server that drains, and
those who watch through it would take the whole fleet for ill. Here a drain ends watches: after NOT_SERVING
the caller asks anew, and a proxy sends that to another server. A caller that is connected to this one gets
NOT_SERVING again, and gRPC's clients ask anew at once: such watches are held for a while, so that nobody
asks without a pause.
"""

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cadenza.server.rpc.intake import Context

_Response = health_pb2.HealthCheckResponse
_HOLD_SECONDS = 1.0


class Health(health_pb2_grpc.HealthServicer):
    """One health for the server, whose name is empty, and all its services. It is NOT_SERVING at first."""

    def __init__(self) -> None:
        self._services = {""}
        self._status: int = _Response.NOT_SERVING
        self._draining = False
        self._changed = asyncio.Condition()

    def add(self, services: Iterable[str]) -> None:
        """Services whose health is told, by full name."""
        self._services.update(services)

    async def set_serving(self, serving: bool) -> None:
        """What is answered and told from now on; after a drain has begun nothing changes."""
        async with self._changed:
            if not self._draining:
                self._status = _Response.SERVING if serving else _Response.NOT_SERVING
                self._changed.notify_all()

    async def drain(self) -> None:
        """NOT_SERVING for good; watches end once they have told it."""
        async with self._changed:
            self._status = _Response.NOT_SERVING
            self._draining = True
            self._changed.notify_all()

    async def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Answers once; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return _Response(status=self._status)

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """Writes the status now and whenever it is another one, until a drain or the caller ends it."""
        begun_in_drain = self._draining
        status, told = self._status_of(request.service), None
        while status != told:
            await context.write(_Response(status=status))
            told = status
            status = await self._next_status(request.service, told)
        if begun_in_drain:
            await asyncio.sleep(_HOLD_SECONDS)

    async def _next_status(self, service: str, told: int) -> int:
        """The next one that is another, or the same when a drain has begun: nothing will follow."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._draining or self._status_of(service) != told)
        return self._status_of(service)

    def _status_of(self, service: str) -> int:
        return self._status if service in self._services else _Response.SERVICE_UNKNOWN
