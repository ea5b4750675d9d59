"""How a model is to run on TensorFlow's devices, and the limits while its KV cache has no size yet."""

import dataclasses

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.tensorflow.sizing import BLOCK_SIZE
from cadenza.v1.manifest_pb2 import ModelManifest


@dataclasses.dataclass(frozen=True, slots=True)
class TensorFlowOptions:
    """How to run a step program."""

    precision: str = "float32"
    """float32, bfloat16 or int8."""
    kv_cache_bytes: int = 0
    """0 on a CPU is as for LiteRT; elsewhere what memory_fraction leaves beside weights and workspace."""
    memory_fraction: float = 0.9
    """Of the device's free memory, that a version may take."""
    max_step_tokens: int = 128
    max_sequences: int = 64
    jit: bool = True
    """Whether XLA compiles; the plain graph is for tests."""


def limits_before_sizing(manifest: ModelManifest, options: TensorFlowOptions) -> RunnerLimits:
    """The limits while the KV cache's size is not known: as if it held whatever may run."""
    context = manifest.decoder.max_context
    return RunnerLimits(
        block_size=BLOCK_SIZE,
        num_blocks=options.max_sequences * -(-context // BLOCK_SIZE),
        max_step_tokens=options.max_step_tokens,
        max_sequences=options.max_sequences,
        max_context=context,
        takes_drafts=False,
    )
