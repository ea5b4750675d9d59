"""How to run a CPU program."""

import dataclasses
from pathlib import Path
from typing import Literal

KvPrecision = Literal["auto", "float32", "bfloat16"]

BLOCK_SIZE = 32
"""Tokens in a KV block."""


@dataclasses.dataclass(frozen=True, slots=True)
class CpuOptions:
    """How to run a CPU program."""

    cache_dir: Path
    """Where packed weights are kept between starts."""
    lanes: int = 0
    """Threads that compute; 0 is as many as the rule of runner/lanes.py gives."""
    kv_cache_bytes: int = 0
    """0 is what max_sequences of 1,024 tokens take, or one whole context where that is more; at least
    256 MiB, and beyond those at most a quarter of the machine's memory."""
    max_step_tokens: int = 128
    max_sequences: int = 64
    kv_precision: KvPrecision = "auto"
    """Of keys and values in the cache; auto is bfloat16 for int8 weights and float32 for others."""
