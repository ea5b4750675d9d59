"""From a SavedModel to a runner on one device: weights, then a KV cache of what they leave."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from cadenza.server.runner.memory import default_kv_bytes
from cadenza.server.runner.tensorflow.devices import bytes_in_use, memory_limit
from cadenza.server.runner.tensorflow.options import TensorFlowOptions, limits_before_sizing
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
        memory = None if "CPU" in device else memory_limit(device)
        program = _load_program(path, options.precision)
        per_block = block_bytes(shape, options.precision)
        num_blocks = _kv_bytes(manifest, options, device, memory) // per_block
        if num_blocks < 1:
            raise ValueError(f"no memory is left for a KV cache; one block takes {per_block} bytes")
        program.allocate(tf.constant(num_blocks), tf.constant(BLOCK_SIZE))
    context = min(shape.max_context, num_blocks * BLOCK_SIZE)
    limits = limits_before_sizing(manifest, options)
    limits = dataclasses.replace(limits, num_blocks=num_blocks, max_context=context)
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


def _kv_bytes(manifest: ModelManifest, options: TensorFlowOptions, device: str, memory: int | None) -> int:
    """What the KV cache may take, now that the weights are there.

    `memory` is what the device had before they were, None for a CPU.
    """
    shape = manifest.decoder
    if options.kv_cache_bytes:
        return options.kv_cache_bytes
    if memory is None:
        each = token_bytes(shape, options.precision)
        return default_kv_bytes(shape.max_context, options.max_sequences, each)
    workspace = workspace_bytes(shape, options.precision, limits_before_sizing(manifest, options))
    weights = bytes_in_use(device)
    if weights is None:
        weights = weight_bytes(manifest.parameter_count, options.precision)
    return int(options.memory_fraction * memory) - weights - workspace
