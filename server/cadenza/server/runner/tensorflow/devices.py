"""TensorFlow's devices as this process sees them: which there are, made ready for use, and their memory."""

import os

import tensorflow as tf

from cadenza.server.errors import StartupError
from cadenza.server.runner.devices import Backend, DeviceChoice

_KINDS = {"tpu": ("TPU", Backend.TENSORFLOW_TPU), "gpu": ("GPU", Backend.TENSORFLOW_GPU)}
"""By flag, best first: TensorFlow's name, and the backend."""
_GIB = 1 << 30
_TPU_GIB = {"v4": 32, "v5litepod": 16, "v5e": 16, "v5p": 95, "v6e": 32}
"""Memory of a chip by the kind in TPU_ACCELERATOR_TYPE (cloud.google.com/tpu/docs/system-architecture-tpu-vm)

v2 and v3 have two devices on a chip and are not known here.
"""


def best_accelerator(choice: DeviceChoice) -> Backend | None:
    """The backend of --device gpu, tpu or auto; None where auto finds no accelerator.

    Raises StartupError where the one that was asked for is not there.
    """
    for name in _KINDS if choice == "auto" else [choice]:
        kind, backend = _KINDS[name]
        if tf.config.list_physical_devices(kind):
            return backend
    if choice == "auto":
        return None
    found = ", ".join(device.name for device in tf.config.list_physical_devices())
    raise StartupError(f"--device {choice}: TensorFlow {tf.__version__} finds none; it finds {found}")


def ready_devices(backend: Backend) -> list[str]:
    """The names of all logical devices of a backend, such as "/device:GPU:0", ready for the first tensor."""
    kind = {Backend.TENSORFLOW_GPU: "GPU", Backend.TENSORFLOW_TPU: "TPU"}.get(backend, "CPU")
    if kind == "GPU":
        for device in tf.config.list_physical_devices(kind):
            _grow(device)
    if kind == "TPU":
        _initialise_tpu()
    return [device.name for device in tf.config.list_logical_devices(kind)]


def memory_limit(name: str) -> int:
    """What this process can have of a GPU's or TPU's memory; to be asked before it has anything there.

    On a GPU it is what other processes leave. Raises StartupError for an unknown kind of TPU.
    """
    if "TPU" in name:
        kind = os.environ.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]
        if kind not in _TPU_GIB:
            raise StartupError(
                f"TPU_ACCELERATOR_TYPE is {kind!r}; it must begin with one of {', '.join(_TPU_GIB)}, whose "
                "memory is known"
            )
        return _TPU_GIB[kind] * _GIB
    from tensorflow.python.client import device_lib  # the only door to a GPU's limit

    limits = {device.name: device.memory_limit for device in device_lib.list_local_devices()}
    return int(limits[f"/device:{_short(name)}"])


def bytes_in_use(name: str) -> int | None:
    """What this process has in a GPU's memory; None for other devices, of which TensorFlow does not tell."""
    if "GPU" not in name:
        return None
    return int(tf.config.experimental.get_memory_info(_short(name))["current"])


def _short(name: str) -> str:
    """ "GPU:0" of "/job:localhost/replica:0/task:0/device:GPU:0"."""
    return name.rpartition("device:")[2]


def _grow(device: object) -> None:
    """Memory is taken as it is needed, so that others can see and have the rest."""
    try:
        tf.config.experimental.set_memory_growth(device, enable=True)
    except RuntimeError as error:
        raise StartupError(f"{device} was in use before its memory could be set: {error}") from error


def _initialise_tpu() -> None:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise StartupError(f"the TPU system cannot be initialised: {error}") from error
