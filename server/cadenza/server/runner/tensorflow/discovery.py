"""Which devices TensorFlow has, and what makes a process see just one of them."""

import contextlib
import os
from collections.abc import Mapping

from cadenza.server.errors import StartupError
from cadenza.server.runner.base import RunnerError
from cadenza.server.runner.devices import Backend, DeviceChoice, Devices
from cadenza.server.runner.tensorflow.process import DeviceProcess
from cadenza.server.runner.tensorflow.wire import Found, Probe


def probe(choice: DeviceChoice) -> Found:
    """The devices of --device gpu, tpu or auto, asked of a process that ends again: it takes seconds.

    Raises StartupError where what was asked for is not there.
    """
    try:
        with contextlib.closing(DeviceProcess(Probe(choice), {})) as process:
            return process.wait(Found)
    except (RunnerError, OSError) as error:
        raise StartupError(f"TensorFlow cannot say which devices there are: {error}") from error


def environment_of(
    devices: Devices, index: int, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables with which a process sees this device alone; `environment` is the server's own."""
    match devices.backend:
        case Backend.TENSORFLOW_GPU:
            visible = environment.get("CUDA_VISIBLE_DEVICES")
            return {"CUDA_VISIBLE_DEVICES": visible.split(",")[index] if visible else str(index)}
        case Backend.TENSORFLOW_TPU if devices.count > 1:
            bounds = {f"TPU_{what}_BOUNDS": "1,1,1" for what in ("PROCESS", "CHIPS_PER_PROCESS")}
            return {"TPU_VISIBLE_DEVICES": str(index), **bounds}
        case Backend.TENSORFLOW_TPU:
            return {}
        case _:
            return {"CUDA_VISIBLE_DEVICES": "-1"}
