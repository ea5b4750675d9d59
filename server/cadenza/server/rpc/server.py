"""The gRPC server: its services, its ports, who may call, and what health says."""

import asyncio
import contextlib
from collections.abc import Callable

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cadenza.kserve import inference_pb2_grpc
from cadenza.server.config import Settings
from cadenza.server.errors import StartupError
from cadenza.server.metrics import Metrics
from cadenza.server.models import ModelTable
from cadenza.server.rpc.call_records import CallRecords
from cadenza.server.rpc.channel_arguments import channel_arguments
from cadenza.server.rpc.completion import CompletionServicer
from cadenza.server.rpc.credentials import Credentials
from cadenza.server.rpc.health import Health
from cadenza.server.rpc.interceptor import CallInterceptor
from cadenza.server.rpc.kserve.service import SERVICE as INFERENCE
from cadenza.server.rpc.kserve.service import InferenceServicer
from cadenza.server.rpc.tfserving import registration as tfserving
from cadenza.server.rpc.tolerant_server import tolerant_server
from cadenza.v1 import completion_pb2, completion_pb2_grpc

_log = structlog.get_logger(__name__)
SERVICE = completion_pb2.DESCRIPTOR.services_by_name["CompletionService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_LAST_BYTES_SECONDS = 0.5


class GrpcServer:
    """All services on one port: CompletionService, KServe's, TensorFlow Serving's, health and reflection.

    Where the settings say so, health is alone on another port as well. It begins as NOT_SERVING.
    """

    def __init__(
        self,
        models: ModelTable,
        metrics: Metrics,
        clock: Callable[[], float],
        records: CallRecords,
        settings: Settings,
        credentials: Credentials,
        on_failure: Callable[[], None],
    ) -> None:
        """`clock` is the engine's, in seconds. `on_failure` is called if the server ends without `stop`."""
        self._models = models
        self._clock = clock
        self._settings = settings
        self._on_failure = on_failure
        self.credentials = credentials
        limit, options = settings.max_message_bytes, channel_arguments(settings)
        self._calls = CallInterceptor(
            metrics, clock, records, max_message_bytes=limit, callers=self.credentials
        )
        self._server = tolerant_server([self._calls], options, self._calls.answer_unknown)
        # With an interceptor of its own: it remembers the methods of its server, and lets everyone call.
        probes = CallInterceptor(metrics, clock, records, max_message_bytes=limit)
        self._probe_server = tolerant_server([probes], options, probes.answer_unknown)
        self._health = Health()
        self._is_serving = False
        self._watch: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the true port.

        Raises StartupError where the port, or TensorFlow Serving's API, cannot be had.
        """
        self._add_services()
        true_port = _listen(self._server, host, port, self.credentials.tls, "--port")
        await self._server.start()
        self._watch = asyncio.create_task(self._watch_end())
        self.credentials.start()
        return true_port

    async def start_probes(self, host: str, port: int) -> int:
        """Listens for health checks alone, in plaintext. Returns the true port. Raises StartupError."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probe_server)
        true_port = _listen(self._probe_server, host, port, None, "--health-port")
        await self._probe_server.start()
        return true_port

    async def set_serving(self, serving: bool) -> None:
        """What health answers from now on, for the server and for each of its services."""
        self._is_serving = serving
        await self._health.set_serving(serving)

    async def drain_health(self) -> None:
        """NOT_SERVING from now on; watches end once they have told it."""
        self._is_serving = False
        await self._health.drain()

    async def stop(self, grace: float) -> None:
        """Stops; calls that have not ended in `grace` seconds are cancelled.

        Reflection never ends by itself, nor do health watches without a drain: once all other calls have,
        they are given only a moment.
        """
        await self._calls.wait_idle(grace)
        self._is_stopping = True
        await asyncio.gather(
            self._server.stop(_LAST_BYTES_SECONDS), self._probe_server.stop(_LAST_BYTES_SECONDS)
        )
        await self.credentials.stop()

    async def _watch_end(self) -> None:
        """grpc ends by itself where its loop has broken, and says so in the log."""
        with contextlib.suppress(Exception):
            await self._server.wait_for_termination()
        if not self._is_stopping:
            _log.error("grpc_server_ended")
            self._on_failure()

    def _add_services(self) -> None:
        completion_pb2_grpc.add_CompletionServiceServicer_to_server(
            CompletionServicer(self._models, self._clock), self._server
        )
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            InferenceServicer(self._models, self._clock, lambda: self._is_serving, self._calls), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        wanted = self._settings.tensorflow_serving
        services = (
            SERVICE,
            INFERENCE,
            *tfserving.add_services(self._server, self._models, self._clock, wanted),
        )
        self._health.add(services)
        reflection.enable_server_reflection((*services, _HEALTH, reflection.SERVICE_NAME), self._server)


def _listen(
    server: grpc.aio.Server, host: str, port: int, tls: grpc.ServerCredentials | None, flag: str
) -> int:
    """The true port. `flag` set the one that is wanted. Raises StartupError."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls)
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}: {error}; choose another --host or {flag}") from error
