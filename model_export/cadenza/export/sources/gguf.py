"""A GGUF file as a source: metadata, tensors dequantised one by one, the tokenizer in its metadata."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from cadenza.export.errors import SourceError, TensorError
from cadenza.export.model import FloatArray, Shape
from cadenza.export.settings import Settings


class GgufFile:
    """An opened GGUF file; its tensors stay on disk until they are read.

    Raises:
        SourceError: the file cannot be read or is no whole GGUF file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            reader = GGUFReader(path)
            metadata = {name: field.contents() for name, field in reader.fields.items()}
        except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
            raise SourceError(f"{path} is no readable GGUF file, or is cut off: {error}") from error
        self.settings = Settings(metadata, path.name)
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._shapes = {
            name: tuple(int(size) for size in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def files(self) -> Sequence[Path]:
        """The file itself."""
        return [self._path]

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """All tensors, shapes outermost dimension first."""
        return self._shapes

    def read(self, name: str) -> FloatArray:
        """One tensor, dequantised to float32.

        Raises:
            TensorError: its number format is unknown.
        """
        tensor = self._tensors[name]
        try:
            array = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise TensorError(
                f"tensor {name} has the number format {tensor.tensor_type.name}, which cannot be read"
            ) from error
        return np.asarray(array, dtype=np.float32).reshape(self._shapes[name])
