"""What the manifest and the options make of a model: tables, KV pool, and limits."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.cpu.memory import ModelMemory, aligned
from cadenza.server.runner.cpu.options import BLOCK_SIZE, CpuOptions
from cadenza.server.runner.memory import default_kv_bytes
from cadenza.v1.manifest_pb2 import PRECISION_INT8, ModelManifest


def kv_pool_bytes(manifest: ModelManifest, options: CpuOptions) -> int:
    """The most bytes that the KV cache may take."""
    if options.kv_cache_bytes:
        return options.kv_cache_bytes
    token_bytes = _block_bytes(manifest, options) // BLOCK_SIZE
    return default_kv_bytes(manifest.decoder.max_context, options.max_sequences, token_bytes)


def _kv_dtype(manifest: ModelManifest, options: CpuOptions) -> type[np.uint16] | type[np.float32]:
    if options.kv_precision == "auto":
        return np.uint16 if manifest.cpu.precision == PRECISION_INT8 else np.float32
    return np.uint16 if options.kv_precision == "bfloat16" else np.float32


def _block_bytes(manifest: ModelManifest, options: CpuOptions) -> int:
    shape, itemsize = manifest.decoder, np.dtype(_kv_dtype(manifest, options)).itemsize
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * BLOCK_SIZE * itemsize


def model_memory(cpu_dir: Path, manifest: ModelManifest, options: CpuOptions) -> ModelMemory:
    """Tables and KV pool for these options. Raises ValueError where not one block fits."""
    shape = manifest.decoder
    dtype = _kv_dtype(manifest, options)
    per_block = _block_bytes(manifest, options)
    num_blocks = kv_pool_bytes(manifest, options) // per_block
    if num_blocks < 1:
        raise ValueError(f"the KV cache may have {options.kv_cache_bytes} bytes; one block takes {per_block}")
    angles = np.outer(
        np.arange(min(shape.max_context, num_blocks * BLOCK_SIZE), dtype=np.float32),
        np.array(shape.rotary.inverse_frequencies, np.float32),
    )
    pool = (shape.num_layers, num_blocks, shape.num_kv_heads)
    embedding = _mapped(cpu_dir / manifest.cpu.embedding)
    learned = manifest.cpu.position_embedding
    return ModelMemory(
        embedding=embedding,
        positions=_mapped(cpu_dir / learned) if learned else embedding[:0],
        cosines=np.cos(angles),
        sines=np.sin(angles),
        keys=aligned((*pool, shape.head_dim, BLOCK_SIZE), dtype),
        values=aligned((*pool, BLOCK_SIZE, shape.head_dim), dtype),
        scale=np.float32(shape.attention_scale),
    )


def _mapped(path: Path) -> NDArray[np.float32]:
    """A NumPy file as memory that is read when it is touched; always the same type to Numba."""
    array: NDArray[np.float32] = np.asarray(np.load(path, mmap_mode="r"))
    return array


def runner_limits(manifest: ModelManifest, options: CpuOptions, model: ModelMemory) -> RunnerLimits:
    """What a runner of the model can hold."""
    num_blocks = model.keys.shape[1]
    return RunnerLimits(
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        max_step_tokens=options.max_step_tokens,
        max_sequences=options.max_sequences,
        max_context=min(manifest.decoder.max_context, num_blocks * BLOCK_SIZE),
    )
