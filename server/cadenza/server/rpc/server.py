"""The gRPC server: its services, its port, and what health says."""

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cadenza.server.errors import StartupError
from cadenza.server.metrics import Metrics
from cadenza.server.models import ModelTable
from cadenza.server.rpc.completion import CompletionServicer
from cadenza.server.rpc.interceptor import CallInterceptor
from cadenza.v1 import completion_pb2, completion_pb2_grpc

SERVICE = completion_pb2.DESCRIPTOR.services_by_name["CompletionService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_PING_INTERVAL_MS = 10_000
_LAST_BYTES_SECONDS = 0.5


class GrpcServer:
    """CompletionService, health and reflection on one port. Health begins as NOT_SERVING."""

    def __init__(
        self, models: ModelTable, metrics: Metrics, clock: Callable[[], float], max_message_bytes: int
    ) -> None:
        self._calls = CallInterceptor(metrics, clock)
        self._server = grpc.aio.server(
            interceptors=[self._calls],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                # A second server on the port must fail, not share it.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_INTERVAL_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        self._health = health.aio.HealthServicer()
        completion_pb2_grpc.add_CompletionServiceServicer_to_server(
            CompletionServicer(models, clock), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, _HEALTH, reflection.SERVICE_NAME), self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the true port. Raises StartupError where the port cannot be had."""
        await self.set_serving(False)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            true_port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {address}: {error}; choose another --host or --port"
            ) from error
        await self._server.start()
        return true_port

    async def set_serving(self, serving: bool) -> None:
        """What health answers from now on, for the server and for CompletionService."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        await asyncio.gather(self._health.set("", status), self._health.set(SERVICE, status))

    async def stop(self, grace: float) -> None:
        """Stops; calls that have not ended in `grace` seconds are cancelled.

        Health watches never end by themselves: once all other calls have, they are given only a moment.
        """
        await self._calls.wait_idle(grace)
        await self._server.stop(_LAST_BYTES_SECONDS)
