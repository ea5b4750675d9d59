"""grpc.health.v1 of the scripted server. (The library's own servicer for threads can lock itself up when a
watch ends while its first answer is on its way.)"""

import threading
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class ScriptedHealth(health_pb2_grpc.HealthServicer):
    """Says what it is told of the whole server; knows no services of it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status: int = SERVING

    def set(self, status: int) -> None:
        """From now on."""
        with self._changed:
            self._status = status
            self._changed.notify_all()

    def Check(  # noqa: N802 - the wire's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service}")
        return health_pb2.HealthCheckResponse(status=self._status)

    def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        context.add_callback(self._wake)
        while context.is_active():
            said = self._status_of(request.service)
            yield health_pb2.HealthCheckResponse(status=said)
            with self._changed:
                self._changed.wait_for(
                    lambda: not context.is_active() or self._status_of(request.service) != said  # noqa: B023
                )

    def _status_of(self, service: str) -> int:
        return SERVICE_UNKNOWN if service else self._status

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
