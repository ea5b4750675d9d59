"""The nouns of an export: a decoder's sizes, its weights, and where in a source each weight comes from.

Knows neither TensorFlow nor a file format, so that a model is refused before anything heavy is loaded.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """The number format of an artifact's matrices.

    INT8 is the CPU program's alone: its SavedModel is float32. BFLOAT16 rounds the weights of both.
    """

    INT8 = "int8"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Norm(enum.Enum):
    """What a norm divides by: RMS the root mean square; LAYER the deviation, after taking off the mean."""

    RMS = "rms"
    LAYER = "layer"


class Activation(enum.Enum):
    """The MLP's nonlinearity. GELU is the exact one, GELU_TANH its approximation by tanh."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"


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
    inverse_frequencies: tuple[float, ...] = ()
    """Radians per position, one per rotated pair of dimensions; float32 values. Empty: nothing is rotated."""
    norm: Norm = Norm.RMS
    activation: Activation = Activation.SILU
    parallel_residual: bool = False
    """Whether the MLP reads the layer's input, as attention does, and not what attention left."""

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
class Affine(Generic[Leaf]):
    """A linear layer's matrix [outputs, inputs], or a norm's gain; and the bias, where there is one."""

    weight: Leaf
    bias: Leaf | None = None

    def map(self, convert: Callable[[str, Leaf], Other], name: str) -> "Affine[Other]":
        """Both converted; convert gets the weight's name and the weight."""
        bias = None if self.bias is None else convert(f"{name}_bias", self.bias)
        return Affine(convert(name, self.weight), bias)

    def leaves(self) -> Iterator[Leaf]:
        """The weight, and the bias if there is one."""
        yield self.weight
        if self.bias is not None:
            yield self.bias


@dataclasses.dataclass(frozen=True)
class LayerWeights(Generic[Leaf]):
    """One layer."""

    attention_norm: Affine[Leaf]
    qkv: Affine[Leaf]
    attention_output: Affine[Leaf]
    mlp_norm: Affine[Leaf]
    up: Affine[Leaf]
    down: Affine[Leaf]
    gate: Affine[Leaf] | None = None
    """With it the MLP's inner product is activation(gate) * up, without it activation(up)."""
    query_norm: Affine[Leaf] | None = None
    """An RMS norm over each query head before it is rotated: [head_dim]."""
    key_norm: Affine[Leaf] | None = None

    def map(self, convert: Callable[[str, Leaf], Other], prefix: str = "") -> "LayerWeights[Other]":
        """The same structure with every weight converted."""
        parts = {name: part.map(convert, prefix + name) for name, part in self._parts()}
        return LayerWeights(**parts)

    def leaves(self) -> Iterator[Leaf]:
        """Every weight."""
        for _, part in self._parts():
            yield from part.leaves()

    def _parts(self) -> Iterator[tuple[str, Affine[Leaf]]]:
        for field in dataclasses.fields(self):
            part = getattr(self, field.name)
            if part is not None:
                yield field.name, part


@dataclasses.dataclass(frozen=True)
class DecoderWeights(Generic[Leaf]):
    """All weights of a decoder; a head that is tied to the embedding holds the same object."""

    embedding: Leaf
    layers: tuple[LayerWeights[Leaf], ...]
    final_norm: Affine[Leaf]
    head: Affine[Leaf]
    positions: Leaf | None = None
    """Learned positions, added to the embedding's rows: [max_context, hidden_size]."""

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.head.weight is self.embedding

    def map(self, convert: Callable[[str, Leaf], Other]) -> "DecoderWeights[Other]":
        """The same structure with every weight converted, a tied head once."""
        embedding = convert("embedding", self.embedding)
        head_bias = None if self.head.bias is None else convert("head_bias", self.head.bias)
        return DecoderWeights(
            embedding=embedding,
            layers=tuple(
                layer.map(convert, f"layer_{index:03d}_") for index, layer in enumerate(self.layers)
            ),
            final_norm=self.final_norm.map(convert, "final_norm"),
            head=Affine(embedding if self.tied else convert("head", self.head.weight), head_bias),
            positions=None if self.positions is None else convert("positions", self.positions),
        )

    def leaves(self) -> Iterator[Leaf]:
        """Every weight once."""
        yield self.embedding
        if self.positions is not None:
            yield self.positions
        for layer in self.layers:
            yield from layer.leaves()
        yield from self.final_norm.leaves()
        yield from (leaf for leaf in self.head.leaves() if leaf is not self.embedding)


def named(weights: DecoderWeights[Leaf] | LayerWeights[Leaf]) -> dict[str, Leaf]:
    """Every weight once, by the name that `map` gives it."""
    found: dict[str, Leaf] = {}
    weights.map(found.setdefault)
    return found


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
    notes: tuple[str, ...] = ()
    """What a user should know of the export, such as a context that was limited to stay exact."""

    def check(self, source: TensorSource) -> None:
        """Compares names and shapes with the source's; reads no weights.

        Raises:
            TensorError: a tensor is missing, unexpected or of the wrong shape.
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
        return _elements(self.weights.leaves())

    def check_program_sizes(self) -> None:
        """Refuses what the CPU program cannot hold.

        Raises:
            UnsupportedModelError: one file of it would be too large.
        """
        layer = max(4 * _elements(layer.leaves()) for layer in self.weights.layers)
        head = 4 * _elements([self.weights.head.weight])
        for what, size in (("a layer", layer), ("the head", head)):
            if size > _LARGEST_PROGRAM_BYTES:
                raise UnsupportedModelError(
                    f"{what} has {size} bytes of float32 weights; "
                    f"at most {_LARGEST_PROGRAM_BYTES} fit in one file of the CPU program"
                )


def _elements(weights: Iterable[Parts]) -> int:
    return sum(math.prod(part.shape) for parts in weights for part in parts)
