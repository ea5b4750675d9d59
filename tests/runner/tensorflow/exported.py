"""Runners of exported artifacts, on the CPU."""

from collections.abc import Callable
from pathlib import Path

from google.protobuf import json_format

from cadenza.server.runner.tensorflow.loader import TensorFlowOptions, load_runner
from cadenza.server.runner.tensorflow.runner import TensorFlowRunner
from cadenza.v1.manifest_pb2 import ModelManifest


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
    text = (artifact / "assets.extra" / "manifest.json").read_text(encoding="utf-8")
    options = TensorFlowOptions(
        precision=precision,
        kv_cache_bytes=kv_cache_bytes,
        max_step_tokens=max_step_tokens,
        max_sequences=max_sequences,
        jit=jit,
    )
    manifest = json_format.Parse(text, ModelManifest())
    return load_runner(artifact, manifest, options, device, on_compile=on_compile)
