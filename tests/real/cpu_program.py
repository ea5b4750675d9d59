"""The CPU program as a runner, driven the way the engine drives it, but without the engine."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray
from tests.runner.driver import Job, complete

from cadenza.server.engine.request import GREEDY, SamplingParams
from cadenza.server.runner.base import StepBatch
from cadenza.server.runner.litert import LiteRTOptions, LiteRTRunner
from cadenza.server.runner.litert.memory import HEAD_BEGIN, HEAD_END, HEAD_ROWS
from cadenza.v1.manifest_pb2 import ModelManifest

CACHE = Path(__file__).parents[2] / ".cache" / "server"
"""Packed weights and compiled kernels, kept between runs of the tests."""


def load_runner(
    artifact: Path,
    *,
    lanes: int = 2,
    max_step_tokens: int = 128,
    max_sequences: int = 32,
    kv_cache_bytes: int = 256 << 20,
) -> LiteRTRunner:
    """Loads an artifact's CPU program; the caller closes it."""
    manifest = (artifact / "assets.extra" / "manifest.json").read_text(encoding="utf-8")
    options = LiteRTOptions(CACHE, lanes, kv_cache_bytes, max_step_tokens, max_sequences)
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
    tables: Sequence[Sequence[int] | None] = blocks or [None] * len(prompts)
    jobs = [Job(prompt, sampling, count, blocks=table) for prompt, table in zip(prompts, tables, strict=True)]
    return [found.token_ids for found in complete(runner, jobs, chunk=chunk)]


def step_logits(runner: LiteRTRunner, batch: StepBatch) -> NDArray[np.float32]:
    """[H, V] The logits of a step's head rows, at most HEAD_ROWS a lane, as the lanes left them.

    Greedy rows without biases and penalties, and targets, leave them as they were.
    """
    runner.step(batch)
    heads = sum(len(part.targets) + (part.sampling is not None) for part in batch.slices)
    rows: list[NDArray[np.float32]] = []
    for lane in runner._lanes:
        count = int(lane.memory.control[HEAD_END] - lane.memory.control[HEAD_BEGIN])
        assert count <= HEAD_ROWS
        rows += [lane.memory.logits[index].copy() for index in range(count)]
        if len(rows) == heads:
            break
    return np.stack(rows)
