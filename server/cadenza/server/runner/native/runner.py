"""The native CPU runner: a whole step in kernels of our own, all lanes at work on the same rows.

For processors with the instructions that tiles.py needs; others take LiteRT's runner. Both read the same CPU
program.
"""

import threading
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.cpu.memory import HEAD_ROWS, ModelMemory, aligned
from cadenza.server.runner.cpu.model import model_memory, runner_limits
from cadenza.server.runner.cpu.options import BLOCK_SIZE, CpuOptions
from cadenza.server.runner.cpu.ranges import cut_rows
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.cpu.threads import Semaphores, posix_functions, sleep_exactly
from cadenza.server.runner.lanes import choose_lanes, most_lanes_of_a_team
from cadenza.server.runner.native.memory import (
    LANES,
    PHASE,
    STOP,
    NativeLane,
    NativeModel,
    TeamMemory,
)
from cadenza.server.runner.native.phases import ROWS_TOGETHER
from cadenza.server.runner.native.rows import GELU, GELU_TANH, SILU
from cadenza.server.runner.native.step_kernel import StepKernel, num_phases, step_kernel
from cadenza.server.runner.native.tiles import (
    MOST_ROWS,
    PANEL,
    has_float_products,
    has_int8_products,
    tile_address,
)
from cadenza.server.runner.native.weights import Layers, padded
from cadenza.server.runner.topology import read_topology
from cadenza.v1.manifest_pb2 import (
    ACTIVATION_GELU,
    ACTIVATION_GELU_TANH,
    ACTIVATION_SILU,
    PRECISION_INT8,
    ModelManifest,
)

_ROWS_FOR_ONE = 8
"""With so many rows for each lane, lanes compute for as long as they read all weights."""
_ACTIVATIONS = {ACTIVATION_SILU: SILU, ACTIVATION_GELU: GELU, ACTIVATION_GELU_TANH: GELU_TANH}


def obstacle(manifest: ModelManifest) -> str | None:
    """Why the CPU program cannot run natively on this machine; None where it can."""
    if not manifest.cpu.HasField("layers"):
        return "the export does not say where its weights lie (export it again)"
    if manifest.cpu.precision == PRECISION_INT8:
        return None if has_int8_products() else "this processor lacks AVX-512 VNNI"
    return None if has_float_products() else "this processor lacks AVX-512"


class NativeRunner(CpuRunner):
    """Implements runner.base.Runner on a CPU."""

    name = "native"

    def __init__(
        self, model: NativeModel, kernel: StepKernel, limits: RunnerLimits, *, heads: int, lanes: int
    ) -> None:
        vocabulary = len(model.embedding)
        super().__init__((model.keys, model.values), vocabulary, limits)
        self._model = model
        self._kernel = kernel
        self._functions = posix_functions()
        self._team = _team_memory(model, limits, heads)
        self._alone = (
            [self._team] if lanes == 1 else [_team_memory(model, limits, heads) for _ in range(lanes)]
        )
        _, _, kv_heads, _, block = model.keys.shape
        self._lanes = [_lane(self._blocks, heads // kv_heads, block, vocabulary) for _ in range(lanes)]
        self._semaphores = Semaphores(lanes)
        self._threads = [self._start(index) for index in range(lanes)]

    @classmethod
    def load(cls, cpu_dir: Path, manifest: ModelManifest, options: CpuOptions) -> Self:
        """Loads the CPU program that `manifest` describes from `cpu_dir`.

        Raises ValueError where the options do not fit the model.
        """
        shape = manifest.decoder
        memory = model_memory(cpu_dir, manifest, options)
        limits = runner_limits(manifest, options, memory)
        group = shape.num_heads // shape.num_kv_heads
        narrow = int(memory.keys.dtype != np.float32)
        kernel = step_kernel(
            options.cache_dir, shape.num_layers, shape.head_dim, BLOCK_SIZE, group, shape.num_kv_heads, narrow
        )
        tile = tile_address(options.cache_dir, int8=manifest.cpu.precision == PRECISION_INT8)
        model = _native_model(Layers(cpu_dir, manifest), memory, manifest, tile)
        most = most_lanes_of_a_team(shape.hidden_size, PANEL)
        lanes = options.lanes or choose_lanes(read_topology(), most)
        return cls(model, kernel, limits, heads=shape.num_heads, lanes=lanes)

    @property
    def lane_seconds(self) -> NDArray[np.float64]:
        """[lanes, 4] Seconds each lane has spent in linear layers, attention, head and sampling."""
        return np.stack([lane.seconds for lane in self._lanes])

    def _compute(self, rows: int, heads: int) -> None:
        self._assign(rows, heads, as_team=rows < _ROWS_FOR_ONE * len(self._lanes))
        self._run()

    def _compute_logits(self, rows: int, heads: int) -> NDArray[np.float32]:
        self._assign(rows, heads, as_team=True)
        self._run()
        return self._team.logits[:heads, : len(self._model.embedding)]

    def _run(self) -> None:
        self._semaphores.go(0)
        self._semaphores.wait_done(0)

    def _end_lanes(self) -> None:
        for index, thread in enumerate(self._threads):
            self._lanes[index].control[STOP] = 1
            self._semaphores.go(index)
            thread.join()
        self._lanes.clear()
        self._alone.clear()
        del self._model, self._team

    def _assign(self, rows: int, heads: int, *, as_team: bool) -> None:
        """All rows to all lanes as a team; or, where they are many, a range of them to each."""
        lanes = len(self._lanes)
        if as_team or lanes == 1:
            for lane in self._lanes:
                lane.control[LANES:PHASE] = lanes, 1, 0, rows, 0, heads
            return
        ranges, shared = cut_rows(self._step, rows, heads, lanes)
        for lane, ((row, row_end), (head, head_end)) in zip(self._lanes, ranges, strict=True):
            sharing = lanes if shared else 1
            lane.control[LANES:PHASE] = 1, sharing, row, row_end - row, head, head_end - head

    def _start(self, index: int) -> threading.Thread:
        thread = threading.Thread(target=self._live, args=(index,), name=f"cadenza-lane-{index}", daemon=True)
        thread.start()
        return thread

    def _live(self, index: int) -> None:
        sleep_exactly()
        self._kernel(
            self._functions,
            self._model,
            self._step,
            self._team,
            self._alone[index],
            self._lanes[index],
            self._semaphores.addresses,
            index,
        )


def _native_model(layers: Layers, memory: ModelMemory, manifest: ModelManifest, tile: int) -> NativeModel:
    described = manifest.cpu.layers
    return NativeModel(
        *memory,
        epsilon=np.float32(described.norm_epsilon),
        int8=int(manifest.cpu.precision == PRECISION_INT8),
        tile=tile,
        centred=int(described.layer_norm),
        activation=_ACTIVATIONS[described.activation],
        gated=int(layers.gated),
        parallel=int(described.parallel_residual),
        attention_norm=layers.norm("attention_norm"),
        qkv=layers.matrix("qkv"),
        query_norm=layers.norm("query_norm"),
        key_norm=layers.norm("key_norm"),
        attention_output=layers.matrix("attention_output"),
        mlp_norm=layers.norm("mlp_norm"),
        up=layers.gate_and_up(),
        down=layers.matrix("down"),
        final_norm=layers.final_norm(),
        head=layers.head(),
    )


def _team_memory(model: NativeModel, limits: RunnerLimits, heads: int) -> TeamMemory:
    rows = max(limits.max_step_tokens, HEAD_ROWS)
    head_dim = model.keys.shape[3]
    hidden, query = padded(model.embedding.shape[1]), padded(heads * head_dim)
    inner = model.up.panels.shape[1] * PANEL // (1 + model.gated)
    attention = aligned((rows, query))
    return TeamMemory(
        hidden=aligned((rows, hidden)),
        normed=aligned((rows, hidden)),
        qkv=aligned((rows, model.qkv.panels.shape[1] * PANEL)),
        query=aligned((rows, heads, head_dim)),
        attention=attention,
        mixed=attention[:, : heads * head_dim].reshape(rows, heads, head_dim),
        inner=aligned((rows, inner)),
        levels=aligned((rows, max(hidden, query, inner)), np.int8),
        scales=np.zeros(rows, np.float32),
        zeros=np.zeros(rows, np.int32),
        totals=np.zeros(rows, np.int32),
        logits=aligned((HEAD_ROWS, model.head.panels.shape[1] * PANEL)),
        claims=aligned((2 + num_phases(len(model.keys), rows + limits.max_sequences), 8), np.int64),
    )


def _lane(blocks: int, group: int, block: int, vocabulary: int) -> NativeLane:
    return NativeLane(
        control=np.zeros(8, np.int64),
        tile=aligned((2, MOST_ROWS, PANEL)),
        scores=aligned((blocks, ROWS_TOGETHER * group, block)),
        raw_logits=np.zeros(vocabulary, np.float32),
        order=np.zeros(vocabulary, np.int32),
        counts=np.zeros(vocabulary, np.int32),
        seconds=np.zeros(4, np.float64),
        clock=np.zeros(2, np.int64),
    )
