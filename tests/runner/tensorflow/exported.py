"""Runners of exported artifacts in this process, on the CPU."""

from collections.abc import Callable
from pathlib import Path

from tests.runner.tensorflow.processes import read_manifest

from cadenza.server.runner.tensorflow.device_runner import load_runner
from cadenza.server.runner.tensorflow.options import TensorFlowOptions
from cadenza.server.runner.tensorflow.runner import TensorFlowRunner


def load(
    artifact: Path,
    *,
    precision: str = "float32",
    jit: bool = True,
    device: str = "/device:CPU:0",
    kv_cache_bytes: int = 16 << 20,
    max_step_tokens: int = 64,
    max_sequences: int = 8,
    on_compile: Callable[[], None] = lambda: None,
) -> TensorFlowRunner:
    """A runner that compiles as it is used; the caller closes it."""
    options = TensorFlowOptions(
        precision=precision,
        kv_cache_bytes=kv_cache_bytes,
        max_step_tokens=max_step_tokens,
        max_sequences=max_sequences,
        jit=jit,
    )
    return load_runner(artifact, read_manifest(artifact), options, device, on_compile=on_compile)
