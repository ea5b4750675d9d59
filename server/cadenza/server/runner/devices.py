"""Which devices a server computes on, found out without TensorFlow where that cannot help."""

import dataclasses
import enum
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cadenza.server.errors import StartupError

DeviceChoice = Literal["auto", "cpu", "gpu", "tpu"]
RunnerChoice = Literal["auto", "native", "litert", "tensorflow"]

_DEVICE_FILES = ("nvidia[0-9]*", "accel*", "vfio/[0-9]*")
"""NVIDIA GPUs; TPUs up to v4; TPUs from v5 on."""
_TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS")


class Backend(enum.Enum):
    """Who computes, and on what."""

    CPU_PROGRAM = "cpu_program"
    TENSORFLOW_CPU = "cpu"
    TENSORFLOW_GPU = "gpu"
    TENSORFLOW_TPU = "tpu"


@dataclasses.dataclass(frozen=True, slots=True)
class Devices:
    """What computes, and on how many devices of that kind."""

    backend: Backend
    count: int = 1


def choose_devices(device: DeviceChoice, runner: RunnerChoice) -> Devices:
    """What --device and --runner mean on this machine. Raises StartupError where it cannot be had."""
    on_cpu = runner in ("native", "litert")
    if on_cpu and device in ("gpu", "tpu"):
        raise StartupError(
            f"--runner {runner} computes on the CPU alone; with --device {device} leave it out"
        )
    if on_cpu or (runner == "auto" and device == "cpu"):
        return Devices(Backend.CPU_PROGRAM)
    if runner == "auto" and device == "auto" and not (accelerator_is_likely() and _tensorflow_is_there()):
        return Devices(Backend.CPU_PROGRAM)
    if not _tensorflow_is_there():
        raise StartupError(
            f"--device {device} --runner {runner} needs TensorFlow, which is not installed: "
            "pip install 'cadenza[server,tensorflow]'"
        )
    if device == "cpu":
        return Devices(Backend.TENSORFLOW_CPU)
    from cadenza.server.runner.tensorflow.discovery import probe

    found = probe(device)
    if found.count:
        return Devices(Backend(found.backend), found.count)
    return Devices(Backend.TENSORFLOW_CPU if runner == "tensorflow" else Backend.CPU_PROGRAM)


def accelerator_is_likely(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this machine has device files or variables of an accelerator; `root` holds dev/."""
    if any(environment.get(name) for name in _TPU_VARIABLES):
        return True
    return any(next((root / "dev").glob(pattern), None) for pattern in _DEVICE_FILES)


def _tensorflow_is_there() -> bool:
    return importlib.util.find_spec("tensorflow") is not None
