"""The CPU runner: LiteRT segments between Numba attention, on one lane or several.

A step's rows, prefill chunks and decode tokens alike, run as one flat batch that is cut into one range of
rows per lane. Every row is computed alone, so a request's tokens do not depend on its neighbours.
"""

import dataclasses
import fcntl
import hashlib
import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cadenza.server.engine.request import GREEDY
from cadenza.server.runner.base import (
    BlockCopy,
    RunnerError,
    RunnerLimits,
    SequenceSlice,
    StepBatch,
    StepResult,
)
from cadenza.server.runner.lanes import choose_lanes, most_lanes_by_rows
from cadenza.server.runner.litert.capi import LiteRT, aligned
from cadenza.server.runner.litert.hand_over import HandOver
from cadenza.server.runner.litert.lane import Lane, Semaphores, posix_functions
from cadenza.server.runner.litert.lane_kernel import LaneKernel, lane_kernel
from cadenza.server.runner.litert.memory import (
    FAILED_PROGRAM,
    HEAD_ROWS,
    STATUS,
    STOP,
    ModelMemory,
    step_memory,
)
from cadenza.server.runner.litert.ranges import cut_rows
from cadenza.server.runner.memory import default_kv_bytes
from cadenza.server.runner.topology import read_topology
from cadenza.v1.manifest_pb2 import PRECISION_INT8, ModelManifest

BLOCK_SIZE = 32
"""Tokens in a KV block."""
_ROWS_WORTH_A_LANE = 2
"""With fewer rows one lane is as fast: reading the weights is what takes time."""


@dataclasses.dataclass(frozen=True, slots=True)
class LiteRTOptions:
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


class LiteRTRunner:
    """Implements runner.base.Runner on a CPU."""

    name = "litert"
    """As --runner says it."""

    def __init__(
        self, litert: LiteRT, lanes: list[Lane], model: ModelMemory, kernel: LaneKernel, limits: RunnerLimits
    ) -> None:
        self._limits = limits
        self._litert = litert
        self._lanes = lanes
        self._model = model
        blocks = -(-limits.max_context // limits.block_size)
        self._step = step_memory(
            limits.max_step_tokens,
            limits.max_sequences,
            context=limits.max_context,
            blocks=blocks,
            vocabulary=len(model.embedding),
        )
        self._hand_over = HandOver(self._step, len(model.embedding))
        self._functions = posix_functions(litert.run_address)
        self._kernel = kernel
        self._semaphores = Semaphores(len(lanes))
        self._threads = [self._start(index) for index in range(1, len(lanes))]

    @classmethod
    def load(cls, cpu_dir: Path, manifest: ModelManifest, options: LiteRTOptions) -> "LiteRTRunner":
        """Loads the CPU program that `manifest` describes from `cpu_dir`.

        Raises LiteRTError where LiteRT refuses a file, ValueError where the options do not fit the model.
        """
        shape = manifest.decoder
        model = model_memory(cpu_dir, manifest, options)
        num_blocks = model.keys.shape[1]
        limits = RunnerLimits(
            block_size=BLOCK_SIZE,
            num_blocks=num_blocks,
            max_step_tokens=options.max_step_tokens,
            max_sequences=options.max_sequences,
            max_context=min(shape.max_context, num_blocks * BLOCK_SIZE),
        )
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
    def limits(self) -> RunnerLimits:
        """What the runner can hold; constant."""
        return self._limits

    @property
    def lane_seconds(self) -> NDArray[np.float64]:
        """[lanes, 4] Seconds each lane has spent in linear layers, attention, head and sampling."""
        return np.stack([lane.memory.seconds for lane in self._lanes])

    def warm_up(self) -> None:
        """Compiles or loads the kernels and touches the weights; block 0 is scribbled on."""
        one = SequenceSlice(token_ids=[0], start=0, block_table=[0], sampling=GREEDY)
        most = min(BLOCK_SIZE, self._limits.max_step_tokens)
        for size in (1, min(most, _ROWS_WORTH_A_LANE * len(self._lanes))):
            self.step(StepBatch([dataclasses.replace(one, token_ids=[0] * size)]))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """[T, V] The logits after each token of one sequence, computed over blocks 0, 1, ...: for checks."""
        table = range(-(-len(token_ids) // BLOCK_SIZE))
        rows = []
        size = min(HEAD_ROWS, self._limits.max_sequences, self._limits.max_step_tokens)
        for begin in range(0, len(token_ids), size):
            part = enumerate(token_ids[begin : begin + size], begin)
            slices = [SequenceSlice([token_id], position, table, GREEDY) for position, token_id in part]
            self._execute(StepBatch(slices), max_lanes=1)
            rows.append(self._lanes[0].memory.logits[: len(slices)].copy())
        return np.concatenate(rows)

    def step(self, batch: StepBatch) -> StepResult:
        """Runs one step. Raises RunnerError where a program fails.

        Raises ValueError, before anything is computed, where a slice asks for more alternatives than
        MOST_ALTERNATIVES, or names a token that the model does not have.
        """
        self._execute(batch, max_lanes=len(self._lanes))
        return self._hand_over.result(batch)

    def _execute(self, batch: StepBatch, max_lanes: int) -> None:
        rows, heads = self._hand_over.fill(batch)
        for copy in batch.copies:
            self._copy(copy)
        used = self._assign(rows, heads, max_lanes)
        self._step.meeting[0] = 0
        self._run(0, used)
        for lane in self._lanes[:used]:
            control = lane.memory.control
            if control[STATUS]:
                raise RunnerError(f"program {control[FAILED_PROGRAM]} failed with status {control[STATUS]}")

    def close(self) -> None:
        """Ends the lanes' threads and frees what LiteRT holds."""
        for index, thread in enumerate(self._threads, 1):
            self._lanes[index].memory.control[STOP] = 1
            self._semaphores.go(index)
            thread.join()
        for lane in self._lanes:
            lane.close()
        self._litert.close()
        self._lanes.clear()
        del self._model, self._step, self._hand_over  # whoever still holds the runner holds no memory

    def _run(self, index: int, used: int = 0) -> None:
        memory = self._lanes[index].memory
        addresses = self._semaphores.addresses
        self._kernel(self._functions, self._model, self._step, memory, addresses, index, used)

    def _start(self, index: int) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(index,), name=f"cadenza-lane-{index}", daemon=True)
        thread.start()
        return thread

    def _copy(self, copy: BlockCopy) -> None:
        for pool in (self._model.keys, self._model.values):
            pool[:, copy.target] = pool[:, copy.source]

    def _assign(self, rows: int, heads: int, max_lanes: int) -> int:
        """Cuts the rows into ranges of equal cost, one a lane; returns how many lanes have one."""
        used = max(1, min(max_lanes, rows // _ROWS_WORTH_A_LANE))
        ranges, shared = cut_rows(self._step, rows, heads, used)
        for lane, (rows_of_lane, heads_of_lane) in zip(self._lanes[:used], ranges, strict=True):
            lane.assign(rows_of_lane, heads_of_lane, used if shared else 1)
        return used


def kv_pool_bytes(manifest: ModelManifest, options: LiteRTOptions) -> int:
    """The most bytes that the KV cache may take."""
    if options.kv_cache_bytes:
        return options.kv_cache_bytes
    token_bytes = _block_bytes(manifest) // BLOCK_SIZE
    return default_kv_bytes(manifest.decoder.max_context, options.max_sequences, token_bytes)


def _kv_dtype(manifest: ModelManifest) -> type[np.uint16] | type[np.float32]:
    return np.uint16 if manifest.cpu.precision == PRECISION_INT8 else np.float32


def _block_bytes(manifest: ModelManifest) -> int:
    shape, itemsize = manifest.decoder, np.dtype(_kv_dtype(manifest)).itemsize
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * BLOCK_SIZE * itemsize


def model_memory(cpu_dir: Path, manifest: ModelManifest, options: LiteRTOptions) -> ModelMemory:
    """Tables and KV pool for these options. Raises ValueError where not one block fits."""
    shape = manifest.decoder
    dtype = _kv_dtype(manifest)
    per_block = _block_bytes(manifest)
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
