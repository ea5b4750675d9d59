"""The two runners of a CPU program, and which of them a machine takes."""

from pathlib import Path
from typing import Literal

from cadenza.server.runner.cpu.options import CpuOptions
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.litert import LiteRTRunner
from cadenza.server.runner.native import NativeRunner, obstacle
from cadenza.v1.manifest_pb2 import ModelManifest


def load_cpu_program(
    cpu_dir: Path,
    manifest: ModelManifest,
    options: CpuOptions,
    choice: Literal["auto", "native", "litert"] = "auto",
) -> CpuRunner:
    """The runner of that choice; auto is the native one where this processor and the artifact allow it.

    Raises LiteRTError or ValueError where it cannot be had.
    """
    wrong = obstacle(manifest)
    if wrong is None and choice != "litert":
        return NativeRunner.load(cpu_dir, manifest, options)
    if choice == "native":
        raise ValueError(f"--runner native cannot run it: {wrong}; leave --runner out")
    return LiteRTRunner.load(cpu_dir, manifest, options)
