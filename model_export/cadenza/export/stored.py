"""Where the weights lie in the CPU program's files, for a server that computes its layers itself.

The flatbuffers stay the only place of the matrices; what is found here goes into the manifest as offsets.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from cadenza.export.errors import ArtifactError
from cadenza.export.model import Affine, DecoderConfig, FloatArray, LayerWeights, Norm
from cadenza.v1 import manifest_pb2
from cadenza.v1.manifest_pb2 import CpuLayers, StoredMatrix

_VECTORS = "vectors.npz"
_MATRICES = ("qkv", "attention_output", "gate", "up", "down")
_NORM_BEFORE = {"qkv": "attention_norm", "gate": "mlp_norm", "up": "mlp_norm"}
_ROUNDING = 0.51
"""The furthest that a weight lies from its int8 form, in units of the scale."""
_ROWS_AT_ONCE = 1024
_BEGINNING = 4096
"""Bytes by which a constant's place in the file is looked for."""


class LayerIndex:
    """Collects what CpuLayers says, while the files of a CPU program are written."""

    def __init__(self, config: DecoderConfig) -> None:
        self._config = config
        self._matrices: list[StoredMatrix] = []
        self._vectors: dict[str, FloatArray] = {}

    def add_head(self, file: Path, final_norm: Affine[FloatArray], head: Affine[FloatArray]) -> None:
        """What `file` holds of the head. Raises ArtifactError."""
        self._add_vectors("final_norm", final_norm)
        self._add_bias("head", head)
        self._matrices += _Constants(file).find({"head": (head.weight, None)})[0]

    def add_layer(self, index: int, files: Iterable[Path], layer: LayerWeights[FloatArray]) -> None:
        """What `files`, each with some of its matrices, hold of layer `index`. Raises ArtifactError."""
        for norm in ("attention_norm", "mlp_norm", "query_norm", "key_norm"):
            self._add_vectors(f"layer_{index:03d}_{norm}", getattr(layer, norm))
        remaining: dict[str, tuple[FloatArray, FloatArray | None]] = {}
        for name in _MATRICES:
            affine = getattr(layer, name)
            if affine is not None:
                gain = getattr(layer, _NORM_BEFORE[name]).weight if name in _NORM_BEFORE else None
                remaining[f"layer_{index:03d}_{name}"] = affine.weight, gain
                self._add_bias(f"layer_{index:03d}_{name}", affine)
        folded: dict[str, FloatArray] = {}
        for file in files:
            found, names = _Constants(file).find(remaining)
            self._matrices += found
            folded.update((name, remaining[name][0]) for name in names)
            for matrix in found:
                del remaining[matrix.name]
        self._fold(index, folded)
        if remaining:
            raise ArtifactError(f"the converter has changed the matrices {', '.join(sorted(remaining))}")

    def write(self, folder: Path) -> CpuLayers:
        """Writes the vectors; returns the index."""
        np.savez(folder / _VECTORS, **self._vectors)  # type: ignore[arg-type]  # any name but `file`
        config = self._config
        return CpuLayers(
            matrices=self._matrices,
            vectors=_VECTORS,
            norm_epsilon=config.norm_epsilon,
            layer_norm=config.norm is Norm.LAYER,
            activation=manifest_pb2.Activation.Value(f"ACTIVATION_{config.activation.name}"),
            parallel_residual=config.parallel_residual,
        )

    def _fold(self, index: int, matrices: Mapping[str, FloatArray]) -> None:
        """The converter has multiplied norms' gains into these matrices: W (g x + b) = (W g) x + W b."""
        norms = set()
        for name, matrix in matrices.items():
            norm = f"layer_{index:03d}_{_NORM_BEFORE[name.removeprefix(f'layer_{index:03d}_')]}"
            norms.add(norm)
            shift = self._vectors.get(f"{norm}_bias")
            if shift is not None:
                bias = self._vectors.get(f"{name}_bias", np.zeros(len(matrix), np.float32))
                self._vectors[f"{name}_bias"] = (bias + matrix.astype(np.float64) @ shift).astype(np.float32)
        for norm in norms:
            self._vectors[norm] = np.ones_like(self._vectors[norm])
            self._vectors.pop(f"{norm}_bias", None)

    def _add_vectors(self, name: str, affine: Affine[FloatArray] | None) -> None:
        if affine is not None:
            self._vectors[name] = affine.weight
            self._add_bias(name, affine)

    def _add_bias(self, name: str, affine: Affine[FloatArray]) -> None:
        if affine.bias is not None:
            self._vectors[f"{name}_bias"] = affine.bias


class _Constants:
    """The matrices in a flatbuffer."""

    def __init__(self, file: Path) -> None:
        self._name = file.name
        self._interpreter = Interpreter(
            model_path=str(file),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        with file.open("rb") as opened:
            self._content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def find(
        self, matrices: Mapping[str, tuple[FloatArray, FloatArray | None]]
    ) -> tuple[list[StoredMatrix], list[str]]:
        """The matrices, by name with the gain of the norm before each, that are among the constants.

        Also the names of those into which the converter has multiplied the gain.
        """
        found: dict[str, StoredMatrix] = {}
        folded = []
        for constant, scales in self._matrices():
            for name, (matrix, gain) in matrices.items():
                if name in found or constant.shape != matrix.shape:
                    continue
                plain = _same(constant, scales, matrix)
                if plain or (gain is not None and _same(constant, scales, matrix * gain)):
                    found[name] = self._stored(name, constant, scales)
                    folded += [] if plain else [name]
                    break
        return list(found.values()), folded

    def _matrices(self) -> Iterator[tuple[npt.NDArray[Any], FloatArray]]:
        for detail in self._interpreter.get_tensor_details():
            if len(detail["shape"]) == 2 and detail["dtype"] in (np.int8, np.float32):
                try:
                    value = self._interpreter.get_tensor(detail["index"])
                except ValueError:  # known only once the program has run
                    continue
                yield value, detail["quantization_parameters"]["scales"]

    def _stored(self, name: str, constant: npt.NDArray[Any], scales: FloatArray) -> StoredMatrix:
        return StoredMatrix(
            name=name,
            file=self._name,
            offset=self._offset(constant),
            rows=constant.shape[0],
            columns=constant.shape[1],
            scales_offset=self._offset(scales) if constant.dtype == np.int8 else 0,
        )

    def _offset(self, values: npt.NDArray[Any]) -> int:
        flat = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        at = self._content.find(flat[:_BEGINNING].tobytes())
        while at >= 0:
            if np.array_equal(np.frombuffer(self._content, np.uint8, flat.size, at), flat):
                return at
            at = self._content.find(flat[:_BEGINNING].tobytes(), at + 1)
        raise ArtifactError(f"{self._name} does not hold its constants as plain arrays")


def _same(constant: npt.NDArray[Any], scales: FloatArray, matrix: FloatArray) -> bool:
    if constant.dtype == np.float32:
        return np.array_equal(constant, matrix)
    if len(scales) != len(matrix):
        return False
    for begin in range(0, len(matrix), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        distance = np.abs(constant[rows] * scales[rows, None] - matrix[rows])
        if (distance > _ROUNDING * scales[rows, None]).any():
            return False
    return True
