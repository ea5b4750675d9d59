"""The header of a GGUF file, read strictly: every count, length and offset is checked against the file first.

The format: the GGUF specification, versions 2 and 3, little-endian. Nothing is allocated for what a file
claims to hold, only for what it holds.
"""

import dataclasses
import math
import mmap
import struct
from typing import Final

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from cadenza.export.errors import SourceError

Value = int | float | bool | str | list["Value"]

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 4
_MAX_NESTING: Final = 4
_MAX_NAME: Final = 2**16
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    _BOOL: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in its file."""

    shape: tuple[int, ...]
    """Outermost dimension first."""
    format: GGMLQuantizationType
    offset: int
    """From the file's begin."""
    size: int
    """Bytes."""

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """The shape as bytes: the last dimension in blocks of the format."""
        per_block, block_bytes = GGML_QUANT_SIZES[self.format]
        return (*self.shape[:-1], self.shape[-1] // per_block * block_bytes)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]


def read_header(data: mmap.mmap) -> Header:
    """Reads metadata and the tensors' places, not the tensors.

    Raises:
        SourceError: the file is cut off, is no GGUF file, or a number in it cannot be.
    """
    cursor = _Cursor(data)
    if cursor.bytes(4, "magic") != _MAGIC:
        raise SourceError("it does not begin with GGUF")
    version = cursor.number(_U32, "version")
    if version not in _VERSIONS:
        raise SourceError(f"its version is {version}; versions 2 and 3, little-endian, can be read")
    tensor_count = cursor.count(24, "tensors")
    entry_count = cursor.count(13, "metadata entries")
    metadata: dict[str, Value] = {}
    for _ in range(entry_count):
        name = cursor.string("a metadata name", _MAX_NAME)
        if name in metadata:
            raise SourceError(f"it holds {name} twice")
        metadata[name] = cursor.value(cursor.number(_U32, name), name)
    stored = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise SourceError(f"general.alignment is {alignment!r}; it must be a power of two")
    begin = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, tensor in stored:
        if name in tensors:
            raise SourceError(f"it holds the tensor {name} twice")
        tensors[name] = _placed(name, tensor, begin, len(data))
    return Header(metadata, tensors)


class _Cursor:
    """Reads one value after the other; what would end behind the file is refused before it is read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.position = 0
        self._data = data

    def bytes(self, size: int, what: str) -> bytes:
        if size > len(self._data) - self.position:
            raise SourceError(f"{what} would end {size} bytes after byte {self.position}, behind the file")
        self.position += size
        return self._data[self.position - size : self.position]

    def number(self, kind: struct.Struct, what: str) -> int:
        (value,) = kind.unpack(self.bytes(kind.size, what))
        return int(value)

    def count(self, least: int, what: str) -> int:
        """How many of something follow, each of `least` bytes or more."""
        count = self.number(_U64, f"the number of {what}")
        if count > (len(self._data) - self.position) // least:
            raise SourceError(f"it claims {count} {what}, more than the file has room for")
        return count

    def string(self, what: str, longest: int | None = None) -> str:
        size = self.number(_U64, what)
        if longest is not None and size > longest:
            raise SourceError(f"{what} has {size} bytes; at most {longest} are allowed")
        raw = self.bytes(size, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{what} is no UTF-8 text") from error

    def value(self, kind: int, what: str, depth: int = 0) -> Value:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what, depth)
        if kind not in _SCALARS:
            raise SourceError(f"{what} has the unknown type {kind}")
        (value,) = _SCALARS[kind].unpack(self.bytes(_SCALARS[kind].size, what))
        return bool(value) if kind == _BOOL else value

    def _array(self, what: str, depth: int) -> Value:
        if depth >= _MAX_NESTING:
            raise SourceError(f"{what} nests more than {_MAX_NESTING} arrays")
        kind = self.number(_U32, what)
        if kind in _SCALARS:
            return self._scalars(kind, what)
        return [self.value(kind, what, depth + 1) for _ in range(self.count(8, f"values of {what}"))]

    def _scalars(self, kind: int, what: str) -> Value:
        size = _SCALARS[kind].size
        raw = self.bytes(size * self.count(size, f"values of {what}"), what)
        values = [value for (value,) in _SCALARS[kind].iter_unpack(raw)]
        return [bool(value) for value in values] if kind == _BOOL else values


@dataclasses.dataclass(frozen=True)
class _Stored:
    shape: tuple[int, ...]
    format: int
    offset: int


def _tensor(cursor: _Cursor) -> tuple[str, _Stored]:
    name = cursor.string("a tensor's name", _MAX_NAME)
    dimensions = cursor.number(_U32, f"tensor {name}")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise SourceError(f"tensor {name} has {dimensions} dimensions; it must have 1 to {_MAX_DIMENSIONS}")
    sizes = [cursor.number(_U64, f"tensor {name}") for _ in range(dimensions)]
    kind = cursor.number(_U32, f"tensor {name}")
    return name, _Stored(tuple(reversed(sizes)), kind, cursor.number(_U64, f"tensor {name}"))


def _placed(name: str, stored: _Stored, begin: int, end: int) -> TensorInfo:
    shape = list(stored.shape)
    try:
        kind = GGMLQuantizationType(stored.format)
    except ValueError as error:
        raise SourceError(f"tensor {name} has the unknown number format {stored.format}") from error
    per_block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % per_block:
        raise SourceError(f"tensor {name} has shape {shape}, which {kind.name} cannot store")
    size = math.prod(shape) // per_block * block_bytes
    offset = begin + stored.offset
    if offset + size > end:
        raise SourceError(
            f"tensor {name} with shape {shape} ends at byte {offset + size}, but the file has {end} bytes"
        )
    return TensorInfo(stored.shape, kind, offset, size)
