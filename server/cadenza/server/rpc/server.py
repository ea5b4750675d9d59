"""The gRPC server: its services, its port, and what health says."""

import asyncio
from collections.abc import Callable
from typing import Literal

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cadenza.server.errors import StartupError
from cadenza.server.metrics import Metrics
from cadenza.server.models import ModelTable
from cadenza.server.rpc.completion import CompletionServicer
from cadenza.server.rpc.interceptor import CallInterceptor
from cadenza.server.rpc.tfserving import registration as tfserving
from cadenza.v1 import completion_pb2, completion_pb2_grpc

SERVICE = completion_pb2.DESCRIPTOR.services_by_name["CompletionService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_PING_INTERVAL_MS = 10_000
_LAST_BYTES_SECONDS = 0.5


class GrpcServer:
    """All services on one port: CompletionService, TensorFlow Serving's, health and reflection.

    Health begins as NOT_SERVING.
    """

    def __init__(
        self,
        models: ModelTable,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        max_message_bytes: int,
        tensorflow_serving: Literal["auto", "on", "off"],
    ) -> None:
        """`tensorflow_serving` says whether its API is answered too; auto: where it is installed."""
        self._models = models
        self._clock = clock
        self._tensorflow_serving: Literal["auto", "on", "off"] = tensorflow_serving
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
        self._services: tuple[str, ...] = ()
        """Whose health is told, by full name."""

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the true port.

        Raises StartupError where the port, or TensorFlow Serving's API, cannot be had.
        """
        self._add_services()
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
        """What health answers from now on, for the server and for each of its services."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        await asyncio.gather(*(self._health.set(service, status) for service in ("", *self._services)))

    async def stop(self, grace: float) -> None:
        """Stops; calls that have not ended in `grace` seconds are cancelled.

        Health watches never end by themselves: once all other calls have, they are given only a moment.
        """
        await self._calls.wait_idle(grace)
        await self._server.stop(_LAST_BYTES_SECONDS)

    def _add_services(self) -> None:
        completion_pb2_grpc.add_CompletionServiceServicer_to_server(
            CompletionServicer(self._models, self._clock), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._services = (
            SERVICE,
            *tfserving.add_services(self._server, self._models, self._clock, self._tensorflow_serving),
        )
        reflection.enable_server_reflection((*self._services, _HEALTH, reflection.SERVICE_NAME), self._server)
