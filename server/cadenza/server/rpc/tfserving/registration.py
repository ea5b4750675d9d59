"""Whether TensorFlow Serving's API is answered, and its services on a gRPC server."""

import importlib.util
from collections.abc import Callable
from typing import Literal

import grpc
import structlog

from cadenza.server.errors import StartupError
from cadenza.server.models import ModelTable

_log = structlog.get_logger(__name__)
_PACKAGES = ("tensorflow", "tensorflow_serving")


def add_services(
    server: grpc.aio.Server,
    models: ModelTable,
    clock: Callable[[], float],
    when: Literal["auto", "on", "off"],
) -> tuple[str, ...]:
    """Adds the services and returns their full names; none where `when` says so or they cannot be had.

    Raises StartupError where they are wanted and not installed.
    """
    lacking = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if lacking and when == "on":
        raise StartupError(
            f"--tensorflow-serving on needs the package {' and '.join(lacking)}: "
            "pip install 'cadenza[server,tensorflow]'"
        )
    served = when != "off" and not lacking
    _log.info("tensorflow_serving_api", served=served, asked=when, lacking=lacking)
    return _add(server, models, clock) if served else ()


def _add(server: grpc.aio.Server, models: ModelTable, clock: Callable[[], float]) -> tuple[str, ...]:
    from cadenza.server.rpc.tfserving import messages
    from cadenza.server.rpc.tfserving.model_service import ModelServicer
    from cadenza.server.rpc.tfserving.prediction_service import PredictionServicer

    messages.prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionServicer(models, clock), server
    )
    messages.model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(models), server)
    files = (messages.prediction_service_pb2, messages.model_service_pb2)
    return tuple(service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values())
