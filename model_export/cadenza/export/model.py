"""The nouns of an export: a decoder's sizes, its weights, and where in a source each weight comes from.

Knows neither TensorFlow nor a file format, so that a model is refused before anything heavy is loaded.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cadenza.export.errors import TensorError, UnsupportedModelError

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Leaf = TypeVar("Leaf")
Other = TypeVar("Other")

_LARGEST_PROGRAM_BYTES = 2**31 - 2**20


class Precision(enum.Enum):
    """The number format of the CPU program's matrices."""

    INT8 = "int8"
    FLOAT32 = "float32"


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and constants of one decoder; heads are in the half-split rotary form."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary_size: int
    max_context: int
    norm_epsilon: float
    attention_scale: float
    inverse_frequencies: tuple[float, ...]
    """Radians per position, one per rotated pair of dimensions; float32 values."""

    @property
    def query_size(self) -> int:
        """Columns of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Columns of all key heads, and of all value heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        """Columns of q, k and v side by side."""
        return self.query_size + 2 * self.kv_size


@dataclasses.dataclass(frozen=True)
class LayerWeights(Generic[Leaf]):
    """One layer. Matrices are [outputs, inputs]; vectors are gains."""

    attention_norm: Leaf
    qkv: Leaf
    attention_output: Leaf
    mlp_norm: Leaf
    gate: Leaf
    up: Leaf
    down: Leaf

    def map(self, convert: Callable[[str, Leaf], Other]) -> "LayerWeights[Other]":
        """The same structure with every weight converted; convert gets a weight's name and the weight."""
        return LayerWeights(
            **{
                field.name: convert(field.name, getattr(self, field.name))
                for field in dataclasses.fields(self)
            }
        )


@dataclasses.dataclass(frozen=True)
class DecoderWeights(Generic[Leaf]):
    """All weights of a decoder; a head that is tied to the embedding is the same object."""

    embedding: Leaf
    layers: tuple[LayerWeights[Leaf], ...]
    final_norm: Leaf
    head: Leaf

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.head is self.embedding

    def leaves(self) -> Iterator[Leaf]:
        """Every weight once."""
        yield self.embedding
        for layer in self.layers:
            yield from (getattr(layer, field.name) for field in dataclasses.fields(layer))
        yield self.final_norm
        if not self.tied:
            yield self.head


class TensorSource(Protocol):
    """A checkpoint whose tensors are read one by one."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """All tensors and their shapes, known without reading them."""

    @property
    def files(self) -> Sequence[Path]:
        """The weight files."""

    def read(self, name: str) -> FloatArray:
        """One tensor as float32. Raises TensorError for an unknown number format."""


def unchanged(array: FloatArray) -> FloatArray:
    """The transform of a tensor that is stored as it is used."""
    return array


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a source: its name there, the shape it must have, and the way to the canonical form."""

    name: str
    shape: Shape
    transform: Callable[[FloatArray], FloatArray] = unchanged


Parts = tuple[StoredTensor, ...]
"""The tensors whose rows, one below the other, make one weight."""


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What a family makes of a source: the decoder and where its weights lie."""

    family: str
    config: DecoderConfig
    weights: DecoderWeights[Parts]
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Tensors that are not used because they must equal another: name -> that other's name."""
    used: frozenset[str] = frozenset()
    """Tensors that went into the config, or that hold nothing of their own."""

    def check(self, source: TensorSource) -> None:
        """Compares names and shapes with the source's; reads no weights.

        Raises:
            TensorError: a tensor is missing, unexpected or of the wrong shape.
            UnsupportedModelError: one file of the CPU program would be too large.
        """
        expected = {part.name: part.shape for parts in self.weights.leaves() for part in parts}
        for name, shape in expected.items():
            if name not in source.shapes:
                raise TensorError(f"tensor {name} is missing; expected it with shape {list(shape)}")
            if source.shapes[name] != shape:
                raise TensorError(
                    f"tensor {name} has shape {list(source.shapes[name])}; expected {list(shape)}"
                )
        for name in source.shapes:
            if name not in expected and name not in self.copies and name not in self.used:
                raise TensorError(
                    f"tensor {name} with shape {list(source.shapes[name])} is unexpected in a model of the "
                    f"{self.family} family with these settings; without it the export would not be exact"
                )
        self._check_program_sizes()

    def load(self, parts: Parts, source: TensorSource) -> FloatArray:
        """Reads one weight.

        Raises:
            TensorError: a number is not finite, a shape is not the promised one, or a copy differs.
        """
        arrays = []
        for part in parts:
            array = source.read(part.name)
            if array.shape != part.shape:
                raise TensorError(
                    f"tensor {part.name} has shape {list(array.shape)}; expected {list(part.shape)}"
                )
            if not np.isfinite(array).all():
                raise TensorError(f"tensor {part.name} holds numbers that are not finite")
            for copy, original in self.copies.items():
                if original == part.name and not np.array_equal(array, source.read(copy)):
                    raise TensorError(f"tensor {copy} differs from {original}, to which the settings tie it")
            arrays.append(part.transform(array))
        return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))

    def parameter_count(self) -> int:
        """Unique weights; a tied head counts once."""
        return sum(math.prod(part.shape) for parts in self.weights.leaves() for part in parts)

    def _check_program_sizes(self) -> None:
        config = self.config
        layer = config.hidden_size * (config.query_size + config.qkv_size + 3 * config.intermediate_size)
        head = config.hidden_size * config.vocabulary_size
        for what, weights in (("a layer", layer), ("the head", head)):
            if 4 * weights > _LARGEST_PROGRAM_BYTES:
                raise UnsupportedModelError(
                    f"{what} has {4 * weights} bytes of float32 weights; "
                    f"at most {_LARGEST_PROGRAM_BYTES} fit in one file of the CPU program"
                )
