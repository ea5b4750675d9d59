"""The demo's artifacts on the CPU runner, for benchmarks that need no engine."""

from pathlib import Path

from deploy.demo.models import ARTIFACTS, CACHE
from google.protobuf import json_format

from cadenza.server.runner.cpu.options import CpuOptions
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.cpu_program import load_cpu_program
from cadenza.v1.manifest_pb2 import ModelManifest


def read_manifest(precision: str) -> ModelManifest:
    """What the artifact of this precision says of itself."""
    text = (_extra(precision) / "manifest.json").read_text(encoding="utf-8")
    return json_format.Parse(text, ModelManifest())


def load_runner(precision: str, *, lanes: int = 0, kv_cache_bytes: int = 0) -> CpuRunner:
    """A runner with the server's default sizes where nothing else is said; the caller closes it."""
    options = CpuOptions(CACHE / "server", lanes=lanes, kv_cache_bytes=kv_cache_bytes)
    runner = load_cpu_program(_extra(precision) / "cpu", read_manifest(precision), options)
    runner.warm_up()
    return runner


def _extra(precision: str) -> Path:
    return ARTIFACTS[precision] / "assets.extra"
