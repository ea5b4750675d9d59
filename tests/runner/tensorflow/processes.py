"""Processes of devices that load a small artifact, without TensorFlow in the process that starts them."""

from collections.abc import Callable
from pathlib import Path

from google.protobuf import json_format

from cadenza.server.runner.devices import Backend
from cadenza.server.runner.tensorflow.options import TensorFlowOptions
from cadenza.server.runner.tensorflow.process import DeviceProcess
from cadenza.server.runner.tensorflow.wire import Load
from cadenza.v1.manifest_pb2 import ModelManifest

SMALL = TensorFlowOptions(kv_cache_bytes=16 << 20, max_step_tokens=64, max_sequences=8)


def start(
    artifact: Path, options: TensorFlowOptions = SMALL, on_compile: Callable[[], None] = lambda: None
) -> DeviceProcess:
    """A process that begins to load the artifact; the caller closes it."""
    message = Load(
        model="tiny",
        version=1,
        path=str(artifact),
        manifest=read_manifest(artifact).SerializeToString(),
        options=options,
        backend=Backend.TENSORFLOW_CPU.value,
        device=0,
        log_format="json",
        log_level="warning",
    )
    return DeviceProcess(message, {}, on_compile)


def read_manifest(artifact: Path) -> ModelManifest:
    """manifest.json of an artifact."""
    text = (artifact / "assets.extra" / "manifest.json").read_text(encoding="utf-8")
    return json_format.Parse(text, ModelManifest())
