"""A GGUF file as a source: metadata, tensors dequantised one by one, the tokenizer in its metadata."""

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from cadenza.export.errors import SourceError, TensorError
from cadenza.export.model import FloatArray, Shape
from cadenza.export.settings import Settings
from cadenza.export.sources.gguf_header import read_header

_PLAIN = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


class GgufFile:
    """An opened GGUF file; its tensors stay on disk until they are read.

    Raises:
        SourceError: the file cannot be read or is no whole GGUF file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = read_header(data)
        except (OSError, ValueError, SourceError) as error:  # ValueError: mmap of an empty file
            raise SourceError(f"{path} is no readable GGUF file, or is cut off: {error}") from error
        self.settings = Settings(header.metadata, path.name)
        self._tensors = header.tensors
        self._shapes = {name: tensor.shape for name, tensor in header.tensors.items()}

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
        plain = _PLAIN.get(tensor.format)
        if plain is not None:
            count = tensor.size // np.dtype(plain).itemsize
            numbers = np.fromfile(self._path, plain, count, offset=tensor.offset)
            return numbers.astype(np.float32, copy=False).reshape(tensor.shape)
        stored = np.fromfile(self._path, np.uint8, tensor.size, offset=tensor.offset)
        try:
            array = dequantize(stored.reshape(tensor.byte_shape), tensor.format)
        except NotImplementedError as error:
            raise TensorError(
                f"tensor {name} has the number format {tensor.format.name}, which cannot be read"
            ) from error
        return np.asarray(array, dtype=np.float32).reshape(tensor.shape)
