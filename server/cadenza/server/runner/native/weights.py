"""The layers of a CPU program as kernels take them: matrices cut into panels, norms side by side.

Matrices are read where they lie in the artifact's files, one at a time, and exist once in memory.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadenza.server.runner.cpu.memory import aligned
from cadenza.server.runner.native.memory import Gains, Matrix
from cadenza.server.runner.native.tiles import PANEL
from cadenza.v1.manifest_pb2 import PRECISION_INT8, ModelManifest, StoredMatrix


def padded(size: int) -> int:
    """The size as whole panels."""
    return -(-size // PANEL) * PANEL


class Layers:
    """Reads matrices and norms from the folder of a CPU program.

    Raises ValueError where the index does not have what the layers need.
    """

    def __init__(self, cpu_dir: Path, manifest: ModelManifest) -> None:
        self._folder = cpu_dir
        self._num_layers = manifest.decoder.num_layers
        self._int8 = manifest.cpu.precision == PRECISION_INT8
        self._stored = {matrix.name: matrix for matrix in manifest.cpu.layers.matrices}
        with np.load(cpu_dir / manifest.cpu.layers.vectors) as vectors:
            self._vectors: dict[str, NDArray[np.float32]] = dict(vectors)

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return "layer_000_gate" in self._stored

    @property
    def intermediate_size(self) -> int:
        """Columns between the MLP's two parts."""
        return self._found("layer_000_down").columns

    def matrix(self, name: str) -> Matrix:
        """The matrix `name` of every layer."""
        return self._packed([[self._in_layer(layer, name)] for layer in range(self._num_layers)])

    def gate_and_up(self) -> Matrix:
        """`up`, whose panels take turns with the gate's where there is one."""
        names = ("gate", "up") if self.gated else ("up",)
        return self._packed(
            [[self._in_layer(layer, name) for name in names] for layer in range(self._num_layers)]
        )

    def head(self) -> Matrix:
        """The head, as a matrix of one layer."""
        return self._packed([["head"]])

    def norm(self, name: str) -> Gains:
        """The norm `name` of every layer; without columns where there is none."""
        return self._gains([self._in_layer(layer, name) for layer in range(self._num_layers)])

    def final_norm(self) -> Gains:
        """The final norm, as of one layer."""
        return self._gains(["final_norm"])

    def _packed(self, names: list[list[str]]) -> Matrix:
        """Matrices by layer; those of one layer have the same shape, and their panels take turns."""
        first, turns = self._found(names[0][0]), len(names[0])
        panels = padded(first.rows) // PANEL
        width = padded(first.columns)
        shape = (len(names), turns * panels)
        inner = (width // 4, PANEL, 4) if self._int8 else (width, PANEL)
        columns = (len(names), turns * panels * PANEL)
        matrix = Matrix(
            panels=aligned((*shape, *inner), np.uint8 if self._int8 else np.float32, huge=True),
            scales=np.zeros(columns, np.float32),
            sums=np.zeros(columns, np.int32),
            bias=np.zeros(columns, np.float32),
        )
        for layer, in_layer in enumerate(names):
            for turn, name in enumerate(in_layer):
                self._pack(self._found(name), matrix, layer, slice(turn, None, turns))
        return matrix

    def _pack(self, stored: StoredMatrix, matrix: Matrix, layer: int, turn: slice) -> None:
        values = self._read(stored)
        target = matrix.panels[layer, turn]
        if self._int8:
            # [panels, PANEL, inputs / 4, 4] -> [panels, inputs / 4, PANEL, 4]; flipping the top bit adds 128
            cut = values.view(np.uint8).reshape(len(target), PANEL, -1, 4)
            np.bitwise_xor(cut.transpose(0, 2, 1, 3), 0x80, out=target)
            scales = np.memmap(self._folder / stored.file, np.float32, "r", stored.scales_offset, stored.rows)
            self._place(matrix.scales, layer, turn, scales)
            self._place(matrix.sums, layer, turn, values.sum(axis=1, dtype=np.int32))
        else:
            target[:] = values.reshape(len(target), PANEL, -1).transpose(0, 2, 1)
        bias = self._vectors.get(f"{stored.name}_bias")
        if bias is not None:
            self._place(matrix.bias, layer, turn, bias)

    def _read(self, stored: StoredMatrix) -> NDArray[Any]:
        """[rows, columns] as whole panels, filled up with zeros."""
        dtype: type[np.generic] = np.int8 if self._int8 else np.float32
        shape = stored.rows, stored.columns
        values: NDArray[Any] = np.memmap(self._folder / stored.file, dtype, "r", stored.offset, shape)
        extra = [(0, padded(size) - size) for size in shape]
        return np.pad(values, extra) if any(after for _, after in extra) else np.asarray(values)

    def _place(self, target: NDArray[Any], layer: int, turn: slice, values: NDArray[Any]) -> None:
        """Writes what belongs to outputs to where their panels are."""
        by_panel = target[layer].reshape(-1, PANEL)[turn]
        flat = np.zeros(by_panel.size, target.dtype)
        flat[: len(values)] = values
        by_panel[:] = flat.reshape(by_panel.shape)

    def _gains(self, names: list[str]) -> Gains:
        if names[0] not in self._vectors:
            nothing = np.zeros((len(names), 0), np.float32)
            return Gains(nothing, nothing)
        gain = np.stack([self._vectors[name] for name in names])
        bias = [self._vectors.get(f"{name}_bias", np.zeros_like(gain[0])) for name in names]
        return Gains(gain, np.stack(bias))

    def _found(self, name: str) -> StoredMatrix:
        if name not in self._stored:
            raise ValueError(f"the manifest's layers have no matrix {name}; export the model again")
        return self._stored[name]

    def _in_layer(self, layer: int, name: str) -> str:
        return f"layer_{layer:03d}_{name}"
