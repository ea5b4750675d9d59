"""The CPU program as a runner and as a `LogitsFunction`."""

from pathlib import Path

from google.protobuf import json_format

from cadenza.server.runner.litert import LiteRTOptions, LiteRTRunner
from cadenza.v1.manifest_pb2 import ModelManifest

CACHE = Path(__file__).parents[2] / ".cache" / "server"
"""Packed weights and compiled kernels, kept between runs of the tests."""


def load_runner(artifact: Path, *, lanes: int = 2, max_step_tokens: int = 128) -> LiteRTRunner:
    """Loads an artifact's CPU program; the caller closes it."""
    manifest = (artifact / "assets.extra" / "manifest.json").read_text(encoding="utf-8")
    options = LiteRTOptions(
        cache_dir=CACHE,
        lanes=lanes,
        kv_cache_bytes=256 << 20,
        max_step_tokens=max_step_tokens,
        max_sequences=32,
    )
    cpu_dir = artifact / "assets.extra" / "cpu"
    return LiteRTRunner.load(cpu_dir, json_format.Parse(manifest, ModelManifest()), options)
