"""From an artifact to warm runners: the one door through which the server loads a model onto its devices.

`choose_loader` finds out which runner this server uses. TensorFlow itself runs in processes of its own.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from cadenza.server.config import Settings
from cadenza.server.errors import StartupError
from cadenza.server.repository import Artifact
from cadenza.server.runner.base import Runner, RunnerError
from cadenza.server.runner.devices import Backend, choose_devices
from cadenza.server.runner.load_log import log_lanes, logged_memory, warn_of_unused_nodes
from cadenza.server.runner.memory import available_bytes
from cadenza.server.runner.topology import read_topology

OnCompile = Callable[[str], None]
"""Called with a model's name, by any thread, each time a program was compiled for it."""


class RunnerLoader(Protocol):
    """Loads artifacts onto this server's devices. Its methods take time and are called outside the loop."""

    def load(self, artifact: Artifact) -> Sequence[Runner]:
        """Warm runners, one per device, all with the same limits. Raises StartupError."""

    def required_bytes(self, artifact: Artifact) -> int:
        """What `load` will take of the fullest device's memory: weights, KV pool and workspace.

        Raises StartupError where the artifact cannot be loaded by this loader at all.
        """

    def free_bytes(self) -> int:
        """What the fullest device has left now."""

    def precision(self, artifact: Artifact) -> str:
        """Number format of the weights that its runners compute with: int8, float32 or bfloat16."""


def choose_loader(settings: Settings, on_compile: OnCompile = lambda _model: None) -> RunnerLoader:
    """The loader that --device and --runner ask for. Raises StartupError where it cannot be had."""
    devices = choose_devices(settings.device, settings.runner)
    if devices.backend is Backend.CPU_PROGRAM:
        return CpuLoader(settings)
    from cadenza.server.runner.tensorflow.loader import TensorFlowLoader

    return TensorFlowLoader(settings, devices, on_compile)


class CpuLoader:
    """Implements RunnerLoader on the CPU, with the artifact's CPU program."""

    def __init__(self, settings: Settings) -> None:
        from cadenza.server.runner.cpu.options import CpuOptions

        self._choice: Literal["auto", "native", "litert"] = (
            "auto" if settings.runner == "tensorflow" else settings.runner
        )
        self._topology = read_topology()
        warn_of_unused_nodes(self._topology)
        self._options = CpuOptions(
            cache_dir=settings.cache_dir,
            lanes=settings.lanes,
            kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
            kv_precision=settings.kv_cache_precision,
            max_step_tokens=settings.max_step_tokens,
            max_sequences=settings.max_sequences,
        )

    def load(self, artifact: Artifact) -> Sequence[Runner]:
        """One warm runner. Raises StartupError."""
        from cadenza.server.runner.cpu.model import kv_pool_bytes
        from cadenza.server.runner.cpu_program import load_cpu_program
        from cadenza.server.runner.litert import LiteRTError

        kv_cache = kv_pool_bytes(artifact.manifest, self._options)
        try:
            with logged_memory(artifact.name, kv_cache):
                runner = load_cpu_program(artifact.cpu_dir, artifact.manifest, self._options, self._choice)
                runner.warm_up()
        except (LiteRTError, RunnerError, OSError, ValueError) as error:
            raise StartupError(
                f"model {artifact.name} in {artifact.cpu_dir} does not load: {error}"
            ) from error
        lanes, asked = len(runner.lane_seconds), self._options.lanes > 0
        log_lanes(artifact.name, runner.name, lanes, self._topology, asked=asked)
        return [runner]

    def required_bytes(self, artifact: Artifact) -> int:
        """Packed weights are as large as the files; the KV pool is counted whole, though it fills as used."""
        from cadenza.server.runner.cpu.model import kv_pool_bytes

        weights = sum(path.stat().st_size for path in artifact.cpu_dir.iterdir())
        return weights + kv_pool_bytes(artifact.manifest, self._options)

    def free_bytes(self) -> int:
        """What the machine has left, or this process's control group where that is less."""
        return available_bytes()

    def precision(self, artifact: Artifact) -> str:
        """The CPU program has one, which the export decided."""
        return artifact.cpu_precision
