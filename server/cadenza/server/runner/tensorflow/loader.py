"""Loads an artifact's step program onto every device of a backend: a runner for each."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import tensorflow as tf

from cadenza.server.config import Settings
from cadenza.server.errors import StartupError
from cadenza.server.repository import Artifact
from cadenza.server.runner.base import Runner, RunnerError, RunnerLimits
from cadenza.server.runner.devices import Backend
from cadenza.server.runner.memory import default_kv_bytes
from cadenza.server.runner.tensorflow.devices import free_device_bytes, ready_devices
from cadenza.server.runner.tensorflow.programs import StepProgram
from cadenza.server.runner.tensorflow.runner import ModelSizes, TensorFlowRunner
from cadenza.server.runner.tensorflow.sizing import (
    BLOCK_SIZE,
    block_bytes,
    token_bytes,
    weight_bytes,
    workspace_bytes,
)
from cadenza.v1.manifest_pb2 import ModelManifest

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class TensorFlowOptions:
    """How to run a step program."""

    precision: str = "float32"
    """float32, bfloat16 or int8."""
    kv_cache_bytes: int = 0
    """0 on a CPU is as for LiteRT; elsewhere what memory_fraction leaves beside weights and workspace."""
    memory_fraction: float = 0.9
    """Of the device's memory, that this server may take."""
    max_step_tokens: int = 128
    max_sequences: int = 64
    jit: bool = True
    """Whether XLA compiles; the plain graph is for tests."""


class TensorFlowLoader:
    """Implements RunnerLoader on all devices of a backend."""

    def __init__(self, settings: Settings, backend: Backend, on_compile: Callable[[str], None]) -> None:
        """Makes the devices ready. Raises StartupError."""
        on_cpu = backend is Backend.TENSORFLOW_CPU
        auto = "float32" if on_cpu else "bfloat16"
        self._options = TensorFlowOptions(
            precision=auto if settings.precision == "auto" else settings.precision,
            kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
            memory_fraction=settings.device_memory_fraction,
            max_step_tokens=settings.max_step_tokens,
            max_sequences=settings.max_sequences,
        )
        self._on_compile = on_compile
        self._devices = ready_devices(backend)
        _log.info("devices", names=self._devices, precision=self._options.precision)

    def load(self, artifact: Artifact) -> Sequence[Runner]:
        """A warm runner for each device. Raises StartupError; what was loaded until then is unloaded."""
        runners: list[TensorFlowRunner] = []
        try:
            for device in self._devices:
                runners.append(self._load(artifact, device))
                runners[-1].warm_up()
        except (RunnerError, ValueError, OSError, tf.errors.OpError) as error:
            for runner in runners:
                runner.close()
            raise StartupError(f"model {artifact.name} in {artifact.path} does not load: {error}") from error
        return runners

    def required_bytes(self, artifact: Artifact) -> int:
        """Weights as the file has them and as they are computed with, workspace, and the KV cache.

        Where the KV cache takes what is left, that of one whole context.
        """
        manifest, options = artifact.manifest, self._options
        file = sum(path.stat().st_size for path in (artifact.path / "variables").iterdir())
        weights = weight_bytes(manifest.parameter_count, options.precision)
        shape = manifest.decoder
        cache = options.kv_cache_bytes or shape.max_context * token_bytes(shape, options.precision)
        return file + weights + cache + workspace_bytes(shape, options.precision, _limits(manifest, options))

    def free_bytes(self) -> int:
        """Of the device that has least."""
        return min(free_device_bytes(name, self._options.memory_fraction) for name in self._devices)

    def precision(self, artifact: Artifact) -> str:
        """That of --precision: every artifact carries all."""
        return self._options.precision

    def _load(self, artifact: Artifact, device: str) -> TensorFlowRunner:
        return load_runner(
            artifact.path,
            artifact.manifest,
            self._options,
            device,
            on_compile=lambda: self._on_compile(artifact.name),
        )


def load_runner(
    path: Path,
    manifest: ModelManifest,
    options: TensorFlowOptions,
    device: str,
    *,
    on_compile: Callable[[], None] = lambda: None,
) -> TensorFlowRunner:
    """Puts weights and KV cache of a SavedModel on a device, such as "/device:CPU:0"; compiles nothing yet.

    Raises ValueError where the artifact has no such program or no KV block fits, and TensorFlow's errors.
    """
    shape = manifest.decoder
    with tf.device(device):
        program = _load_program(path, options.precision)
        per_block = block_bytes(shape, options.precision)
        num_blocks = _kv_bytes(manifest, options, device) // per_block
        if num_blocks < 1:
            raise ValueError(f"no memory is left for a KV cache; one block takes {per_block} bytes")
        program.allocate(tf.constant(num_blocks), tf.constant(BLOCK_SIZE))
    context = min(shape.max_context, num_blocks * BLOCK_SIZE)
    limits = dataclasses.replace(_limits(manifest, options), num_blocks=num_blocks, max_context=context)
    sizes = ModelSizes(shape.hidden_size, shape.vocabulary_size)
    return TensorFlowRunner(program, limits, sizes, device=device, jit=options.jit, on_compile=on_compile)


def _load_program(path: Path, precision: str) -> StepProgram:
    """The step program alone, with its weights; the rest of the SavedModel is dropped."""
    model = tf.saved_model.load(str(path))
    program: StepProgram | None = getattr(getattr(model, "steps", None), precision, None)
    if program is None:
        raise ValueError(f"{path} has no step program of precision {precision}; export the model again")
    program.prepare()
    program.release()
    return program


def _limits(manifest: ModelManifest, options: TensorFlowOptions) -> RunnerLimits:
    """The limits while the KV cache's size is not known: as if it held whatever may run."""
    context = manifest.decoder.max_context
    return RunnerLimits(
        block_size=BLOCK_SIZE,
        num_blocks=options.max_sequences * -(-context // BLOCK_SIZE),
        max_step_tokens=options.max_step_tokens,
        max_sequences=options.max_sequences,
        max_context=context,
    )


def _kv_bytes(manifest: ModelManifest, options: TensorFlowOptions, device: str) -> int:
    """What the KV cache may take, now that the weights are there."""
    shape = manifest.decoder
    if options.kv_cache_bytes:
        return options.kv_cache_bytes
    if "CPU" in device:
        each = token_bytes(shape, options.precision)
        return default_kv_bytes(shape.max_context, options.max_sequences, each)
    workspace = workspace_bytes(shape, options.precision, _limits(manifest, options))
    return free_device_bytes(device, options.memory_fraction) - workspace
