"""The CPU runner: LiteRT segments between Numba attention, on one lane or several.

A step's rows, prefill chunks and decode tokens alike, run as one flat batch that is cut into one range of
rows per lane. Every row is computed alone, so a request's tokens do not depend on its neighbours.
"""

import fcntl
import hashlib
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cadenza.server.runner.base import RunnerError, RunnerLimits
from cadenza.server.runner.cpu.memory import ModelMemory
from cadenza.server.runner.cpu.model import model_memory, runner_limits
from cadenza.server.runner.cpu.options import BLOCK_SIZE, CpuOptions
from cadenza.server.runner.cpu.ranges import cut_rows
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.cpu.threads import Semaphores, posix_functions
from cadenza.server.runner.lanes import choose_lanes, most_lanes_by_rows
from cadenza.server.runner.litert.capi import LiteRT
from cadenza.server.runner.litert.lane import Lane
from cadenza.server.runner.litert.lane_kernel import LaneKernel, lane_kernel
from cadenza.server.runner.litert.lane_memory import FAILED_PROGRAM, STATUS, STOP
from cadenza.server.runner.topology import read_topology
from cadenza.v1.manifest_pb2 import ModelManifest

_ROWS_WORTH_A_LANE = 2
"""With fewer rows one lane is as fast: reading the weights is what takes time."""


class LiteRTRunner(CpuRunner):
    """Implements runner.base.Runner on a CPU."""

    name = "litert"

    def __init__(
        self, litert: LiteRT, lanes: list[Lane], model: ModelMemory, kernel: LaneKernel, limits: RunnerLimits
    ) -> None:
        super().__init__((model.keys, model.values), len(model.embedding), limits)
        self._litert = litert
        self._lanes = lanes
        self._model = model
        self._functions = posix_functions(litert.run_address)
        self._kernel = kernel
        self._semaphores = Semaphores(len(lanes))
        self._threads = [self._start(index) for index in range(1, len(lanes))]

    @classmethod
    def load(cls, cpu_dir: Path, manifest: ModelManifest, options: CpuOptions) -> Self:
        """Loads the CPU program that `manifest` describes from `cpu_dir`.

        Raises LiteRTError where LiteRT refuses a file, ValueError where the options do not fit the model.
        """
        shape = manifest.decoder
        model = model_memory(cpu_dir, manifest, options)
        limits = runner_limits(manifest, options, model)
        litert = LiteRT()
        most = most_lanes_by_rows(options.max_step_tokens)
        count = options.lanes or choose_lanes(read_topology(), most)
        names = [*manifest.cpu.segments, manifest.cpu.head]
        caches = _weight_cache_dir(options.cache_dir, cpu_dir)
        lanes = []
        with _locked(caches):
            for _ in range(count):
                programs = [
                    litert.load(cpu_dir / name, threads=1, weight_cache=caches / f"{name}.xnnpack")
                    for name in names
                ]
                blocks = -(-limits.max_context // BLOCK_SIZE)
                rows = limits.max_step_tokens
                lanes.append(
                    Lane(litert, programs, rows=rows, blocks=blocks, heads=shape.num_heads, model=model)
                )
        group = shape.num_heads // shape.num_kv_heads
        narrow = int(model.keys.dtype != np.float32)
        kernel = lane_kernel(
            options.cache_dir, shape.num_layers, shape.head_dim, BLOCK_SIZE, group, shape.num_kv_heads, narrow
        )
        return cls(litert, lanes, model, kernel, limits)

    @property
    def lane_seconds(self) -> NDArray[np.float64]:
        """[lanes, 4] Seconds each lane has spent in linear layers, attention, head and sampling."""
        return np.stack([lane.memory.seconds for lane in self._lanes])

    def _compute(self, rows: int, heads: int) -> None:
        self._compute_on(len(self._lanes), rows, heads)

    def _compute_logits(self, rows: int, heads: int) -> NDArray[np.float32]:
        self._compute_on(1, rows, heads)
        return self._lanes[0].memory.logits[:heads]

    def _compute_on(self, max_lanes: int, rows: int, heads: int) -> None:
        used = self._assign(rows, heads, max_lanes)
        self._run(0, used)
        for lane in self._lanes[:used]:
            control = lane.memory.control
            if control[STATUS]:
                raise RunnerError(f"program {control[FAILED_PROGRAM]} failed with status {control[STATUS]}")

    def _end_lanes(self) -> None:
        for index, thread in enumerate(self._threads, 1):
            self._lanes[index].memory.control[STOP] = 1
            self._semaphores.go(index)
            thread.join()
        for lane in self._lanes:
            lane.close()
        self._litert.close()
        self._lanes.clear()
        del self._model

    def _run(self, index: int, used: int = 0) -> None:
        memory = self._lanes[index].memory
        addresses = self._semaphores.addresses
        self._kernel(self._functions, self._model, self._step, memory, addresses, index, used)

    def _start(self, index: int) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(index,), name=f"cadenza-lane-{index}", daemon=True)
        thread.start()
        return thread

    def _assign(self, rows: int, heads: int, max_lanes: int) -> int:
        """Cuts the rows into ranges of equal cost, one a lane; returns how many lanes have one."""
        used = max(1, min(max_lanes, rows // _ROWS_WORTH_A_LANE))
        ranges, shared = cut_rows(self._step, rows, heads, used)
        for lane, (rows_of_lane, heads_of_lane) in zip(self._lanes[:used], ranges, strict=True):
            lane.assign(rows_of_lane, heads_of_lane, used if shared else 1)
        return used


def _weight_cache_dir(cache_dir: Path, cpu_dir: Path) -> Path:
    """A folder of its own for each artifact, LiteRT version and processor."""
    digest = hashlib.sha256()
    digest.update((cpu_dir.parent / "SHA256SUMS").read_bytes())
    digest.update(f"{version('ai-edge-litert')} {platform.machine()} {_processor()}".encode())
    return cache_dir / "xnnpack" / digest.hexdigest()[:32]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder, so that two servers do not pack the same weights at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
