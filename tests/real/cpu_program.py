"""The CPU program as a runner, driven the way the engine drives it, but without the engine."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from numpy.typing import NDArray
from tests.runner.driver import Job, complete

from cadenza.server.engine.request import GREEDY, SamplingParams
from cadenza.server.runner.base import StepBatch
from cadenza.server.runner.cpu.memory import HEAD_ROWS
from cadenza.server.runner.cpu.options import CpuOptions, KvPrecision
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.cpu_program import load_cpu_program
from cadenza.server.runner.litert import LiteRTRunner
from cadenza.server.runner.litert.lane_memory import HEAD_BEGIN, HEAD_END
from cadenza.server.runner.native import NativeRunner, obstacle
from cadenza.server.runner.native import memory as native
from cadenza.v1.manifest_pb2 import ModelManifest

KINDS: Sequence[type[CpuRunner]] = (LiteRTRunner, NativeRunner)

CACHE = Path(__file__).parents[2] / ".cache" / "server"
"""Packed weights and compiled kernels, kept between runs of the tests."""


def load_runner(
    artifact: Path,
    kind: type[CpuRunner] | None = None,
    *,
    lanes: int = 2,
    max_step_tokens: int = 128,
    max_sequences: int = 32,
    kv_cache_bytes: int = 256 << 20,
    kv_precision: KvPrecision = "auto",
) -> CpuRunner:
    """Loads an artifact's CPU program with the runner of that kind, or with the one that a server takes.

    Skips the test where this processor cannot run it so. The caller closes the runner.
    """
    text = (artifact / "assets.extra" / "manifest.json").read_text(encoding="utf-8")
    manifest = json_format.Parse(text, ModelManifest())
    if kind is NativeRunner and (wrong := obstacle(manifest)) is not None:
        pytest.skip(wrong)
    options = CpuOptions(CACHE, lanes, kv_cache_bytes, max_step_tokens, max_sequences, kv_precision)
    cpu_dir = artifact / "assets.extra" / "cpu"
    return (
        load_cpu_program(cpu_dir, manifest, options)
        if kind is None
        else kind.load(cpu_dir, manifest, options)
    )


def generate(
    runner: CpuRunner,
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


def step_logits(runner: CpuRunner, batch: StepBatch) -> NDArray[np.float32]:
    """[H, V] The logits of a step's head rows, at most HEAD_ROWS a lane, as the lanes left them.

    Greedy rows without biases and penalties, and targets, leave them as they were.
    """
    runner.step(batch)
    heads = sum(len(part.targets) + (part.sampling is not None) for part in batch.slices)
    rows: list[NDArray[np.float32]] = []
    for logits, count in _lanes_logits(runner):
        assert count <= HEAD_ROWS
        rows += [logits[index].copy() for index in range(count)]
        if len(rows) == heads:
            break
    return np.stack(rows)


def _lanes_logits(runner: CpuRunner) -> Iterator[tuple[NDArray[np.float32], int]]:
    if isinstance(runner, NativeRunner):
        yield from _native_logits(runner)
        return
    assert isinstance(runner, LiteRTRunner)
    for lane in runner._lanes:
        control = lane.memory.control
        yield lane.memory.logits, int(control[HEAD_END] - control[HEAD_BEGIN])


def _native_logits(runner: NativeRunner) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Of the team, or of each lane where each had rows of its own."""
    vocabulary = len(runner._model.embedding)
    for lane, alone in zip(runner._lanes, runner._alone, strict=True):
        team = runner._team if lane.control[native.LANES] > 1 else alone
        yield team.logits[:, :vocabulary], int(lane.control[native.HEADS])
