"""Runs an artifact's CPU program the slow and simple way: one segment after the other, attention in NumPy.

For proofs at export and by `cadenza-export verify`; a server has its own kernels. Never more than one
segment is in memory.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from cadenza.export.model import FloatArray
from cadenza.v1.manifest_pb2 import CpuProgram, DecoderShape


def cpu_logits(
    folder: Path, shape: DecoderShape, program: CpuProgram, token_ids: Sequence[Sequence[int]]
) -> list[FloatArray]:
    """Logits after each token of some sequences, [T, V] of each.

    Args:
        folder: assets.extra/cpu of the artifact.
        shape: the decoder's sizes.
        program: the files in the folder.
        token_ids: sequences, none empty, none longer than the context.
    """
    borders = np.cumsum([len(ids) for ids in token_ids])[:-1]
    positions = np.concatenate([np.arange(len(ids)) for ids in token_ids])
    hidden = np.load(folder / program.embedding, mmap_mode="r")[np.concatenate(token_ids)]
    if program.position_embedding:
        hidden = hidden + np.load(folder / program.position_embedding, mmap_mode="r")[positions]
    outputs = _run(folder / program.segments[0], hidden=hidden)
    for name in program.segments[1:]:
        rotated = _rotated(shape, outputs["qkv"], positions)
        attention = np.concatenate([_attention(shape, rows) for rows in np.split(rotated, borders)])
        outputs = _run(folder / name, hidden=hidden, attention=attention)
        hidden = outputs["hidden"]
    return np.split(_run(folder / program.head, hidden=hidden)["logits"], borders)


def _run(path: Path, **inputs: FloatArray) -> dict[str, FloatArray]:
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    (signature,) = interpreter.get_signature_list()
    outputs: dict[str, FloatArray] = interpreter.get_signature_runner(signature)(**inputs)
    return outputs


def _rotated(shape: DecoderShape, qkv: FloatArray, positions: np.ndarray) -> FloatArray:
    """Rows [R, heads + 2 kv_heads, head_dim], q and k turned by the rotary embedding."""
    rows = qkv.reshape(len(qkv), -1, shape.head_dim)
    frequencies = np.array(shape.rotary.inverse_frequencies, np.float32)
    half, turned = len(frequencies), shape.num_heads + shape.num_kv_heads
    angles = (positions.astype(np.float32)[:, None] * frequencies)[:, None]
    cosine, sine = np.cos(angles), np.sin(angles)
    first, second = rows[:, :turned, :half], rows[:, :turned, half : 2 * half]
    result = rows.copy()
    result[:, :turned, :half] = first * cosine - second * sine
    result[:, :turned, half : 2 * half] = second * cosine + first * sine
    return result


def _attention(shape: DecoderShape, rows: FloatArray) -> FloatArray:
    """Causal attention of one sequence: [T, heads + 2 kv_heads, head_dim] -> [T, heads * head_dim]."""
    length, group = len(rows), shape.num_heads // shape.num_kv_heads
    query, key, value = np.split(rows, [shape.num_heads, shape.num_heads + shape.num_kv_heads], axis=1)
    grouped = query.reshape(length, shape.num_kv_heads, group, shape.head_dim)
    scores = np.einsum("tkgd,skd->kgts", grouped, key) * np.float32(shape.attention_scale)
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed: FloatArray = np.einsum("kgts,skd->tkgd", shares, value).reshape(length, -1)
    return mixed
