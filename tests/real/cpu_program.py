"""The CPU program as a runner, driven the way the engine drives it, but without the engine."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from cadenza.server.engine.request import GREEDY, SamplingParams
from cadenza.server.runner.base import SequenceSlice, StepBatch
from cadenza.server.runner.litert import LiteRTOptions, LiteRTRunner
from cadenza.server.runner.litert.memory import HEAD_BEGIN, HEAD_END
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


def generate(
    runner: LiteRTRunner,
    prompts: Sequence[Sequence[int]],
    count: int,
    sampling: SamplingParams = GREEDY,
    *,
    chunk: int = 64,
    blocks: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Generates for all prompts in one batch; `blocks` are the sequences' block tables."""
    pending = [list(prompt) for prompt in prompts]
    computed = [0] * len(prompts)
    generated: list[list[int]] = [[] for _ in prompts]
    tables = blocks or [range(8 * index, 8 * index + 8) for index in range(len(prompts))]
    while any(len(tokens) < count for tokens in generated):
        room = runner.limits.max_step_tokens
        taken = []
        for tokens in pending:
            taken.append(min(chunk, len(tokens), room))
            room -= taken[-1]
        active = [index for index, size in enumerate(taken) if size and len(generated[index]) < count]
        slices = [
            SequenceSlice(
                pending[index][: taken[index]],
                computed[index],
                tables[index],
                sampling if taken[index] == len(pending[index]) else None,
            )
            for index in active
        ]
        for index, token in zip(active, runner.step(StepBatch(slices)).token_ids, strict=True):
            computed[index] += taken[index]
            pending[index] = pending[index][taken[index] :]
            if token >= 0:
                generated[index].append(token)
                pending[index] = [token]
    return generated


def step_logits(runner: LiteRTRunner, batch: StepBatch) -> NDArray[np.float32]:
    """[S, V] The logits of a step's slices, each of which wants a token, as the lanes left them."""
    runner.step(batch)
    rows: list[NDArray[np.float32]] = []
    for lane in runner._lanes:
        count = int(lane.memory.control[HEAD_END] - lane.memory.control[HEAD_BEGIN])
        rows += [lane.memory.logits[index].copy() for index in range(count)]
        if len(rows) == len(batch.slices):
            break
    return np.stack(rows)
