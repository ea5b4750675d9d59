"""Loads an artifact's step program onto every device of a kind: a process and a runner for each."""

from collections.abc import Callable, Sequence

import structlog

from cadenza.server.config import Settings
from cadenza.server.errors import StartupError
from cadenza.server.repository import Artifact
from cadenza.server.runner.base import Runner, RunnerError
from cadenza.server.runner.devices import Backend, Devices
from cadenza.server.runner.memory import available_bytes
from cadenza.server.runner.tensorflow.discovery import environment_of, probe
from cadenza.server.runner.tensorflow.options import TensorFlowOptions, limits_before_sizing
from cadenza.server.runner.tensorflow.process import DeviceProcess
from cadenza.server.runner.tensorflow.remote import RemoteRunner
from cadenza.server.runner.tensorflow.sizing import token_bytes, weight_bytes, workspace_bytes
from cadenza.server.runner.tensorflow.wire import Load

_log = structlog.get_logger(__name__)
PROCESS_BYTES = 512 << 20
"""What a process with TensorFlow has resident before it has a model."""


class TensorFlowLoader:
    """Implements RunnerLoader on all devices of a kind."""

    def __init__(self, settings: Settings, devices: Devices, on_compile: Callable[[str], None]) -> None:
        """`on_compile` is called with a model's name, by the thread that loads or steps."""
        self._on_cpu = devices.backend is Backend.TENSORFLOW_CPU
        auto = "float32" if self._on_cpu else "bfloat16"
        self._options = TensorFlowOptions(
            precision=auto if settings.precision == "auto" else settings.precision,
            kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
            memory_fraction=settings.device_memory_fraction,
            max_step_tokens=settings.max_step_tokens,
            max_sequences=settings.max_sequences,
        )
        self._log_format, self._log_level = settings.log_format, settings.log_level
        self._on_compile = on_compile
        self._devices = devices
        self._processes: list[DeviceProcess] = []
        """Some may have ended."""
        _log.info(
            "devices", kind=devices.backend.value, count=devices.count, precision=self._options.precision
        )

    def load(self, artifact: Artifact) -> Sequence[Runner]:
        """A warm runner for each device; they are loaded at the same time.

        Raises StartupError; what was loaded until then is unloaded.
        """
        self._processes = [process for process in self._processes if process.is_alive]
        started: list[DeviceProcess] = []
        try:
            started.extend(self._start(artifact, index) for index in range(self._devices.count))
            runners = [RemoteRunner(process) for process in started]
        except (RunnerError, StartupError, ValueError, OSError) as error:
            for process in started:
                process.close()
            raise StartupError(f"model {artifact.name} in {artifact.path} does not load: {error}") from error
        self._processes += started
        return runners

    def required_bytes(self, artifact: Artifact) -> int:
        """Weights as the file has them and as they are computed with, workspace, and the KV cache.

        Where the KV cache takes what is left, that of one whole context. On a CPU also the processes, for
        all that they have is in the same memory.
        """
        manifest, options = artifact.manifest, self._options
        file = sum(path.stat().st_size for path in (artifact.path / "variables").iterdir())
        weights = weight_bytes(manifest.parameter_count, options.precision)
        shape = manifest.decoder
        cache = options.kv_cache_bytes or shape.max_context * token_bytes(shape, options.precision)
        limits = limits_before_sizing(manifest, options)
        required = file + weights + cache + workspace_bytes(shape, options.precision, limits)
        return self._devices.count * (required + PROCESS_BYTES) if self._on_cpu else required

    def free_bytes(self) -> int:
        """Of the device that has least. A TPU has nothing while a process holds it: it belongs to one alone.

        On a GPU and a TPU a process of its own is asked, which takes seconds.
        """
        if self._on_cpu:
            return available_bytes()
        if self._devices.backend is Backend.TENSORFLOW_GPU:
            return int(self._options.memory_fraction * probe("gpu").free_bytes)
        if any(process.is_alive for process in self._processes):
            return 0
        return int(self._options.memory_fraction * probe("tpu").free_bytes)

    def precision(self, artifact: Artifact) -> str:  # noqa: ARG002 the protocol's
        """That of --precision: every artifact carries all."""
        return self._options.precision

    def _start(self, artifact: Artifact, index: int) -> DeviceProcess:
        load = Load(
            model=artifact.name,
            version=artifact.version,
            path=str(artifact.path),
            manifest=artifact.manifest.SerializeToString(),
            options=self._options,
            backend=self._devices.backend.value,
            device=index,
            log_format=self._log_format,
            log_level=self._log_level,
        )
        environment = environment_of(self._devices, index)
        return DeviceProcess(load, environment, on_compile=lambda: self._on_compile(artifact.name))
