"""TensorProto to NumPy arrays and back, as TensorFlow reads and writes them, of bounded size.

Strings, int32, int64 and float32: what signatures of artifacts take and give. Strings are arrays of bytes.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cadenza.server.rpc.tfserving.messages import tensor_pb2, types_pb2

MAX_ELEMENTS = 1 << 20
"""Most elements of one tensor, in and out."""
MAX_ROWS = 1 << 14
"""Most rows of one tensor, its first dimension."""
MAX_STRING_BYTES = 4 << 20
"""Most bytes that the strings of one tensor hold together; one that stands for many counts as often."""

Array = npt.NDArray[Any]


class TensorError(ValueError):
    """A TensorProto that is no tensor, or one that is too large."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Format:
    """How a TensorProto holds one kind of elements."""

    field: str
    """The repeated field."""
    dtype: np.dtype[Any]


_FORMATS = {
    types_pb2.DT_STRING: _Format("string_val", np.dtype(object)),
    types_pb2.DT_INT32: _Format("int_val", np.dtype("<i4")),
    types_pb2.DT_INT64: _Format("int64_val", np.dtype("<i8")),
    types_pb2.DT_FLOAT: _Format("float_val", np.dtype("<f4")),
}
_DATA_TYPES = {one.dtype: data_type for data_type, one in _FORMATS.items()}


def data_type_name(data_type: int) -> str:
    """A DataType as TensorFlow's messages write it: string, int32, float, ..."""
    try:
        name: str = types_pb2.DataType.Name(data_type)
    except ValueError:
        return f"unknown dtype enum ({data_type})"
    return name.removeprefix("DT_").lower()


def read_tensor(proto: Any) -> Array:
    """The array of a TensorProto: from its bytes, or from its values, of which the last stands for the rest.

    Raises TensorError where the shape is unknown, the data do not fit it, or the tensor is too large.
    """
    if proto.dtype not in _FORMATS:
        raise TensorError(f"{data_type_name(proto.dtype)} is not a type that is read here")
    layout = _FORMATS[proto.dtype]
    shape = _read_shape(proto)
    size = math.prod(shape)
    if proto.tensor_content:
        flat = _from_content(proto.tensor_content, layout.dtype, size)
    else:
        flat = _from_values(getattr(proto, layout.field), layout.dtype, size)
    return flat.reshape(shape)


def write_tensor(array: Array) -> Any:
    """The TensorProto of an array of bytes, int32, int64 or float32; all values in the repeated field."""
    data_type = _DATA_TYPES[array.dtype]
    proto = tensor_pb2.TensorProto(dtype=data_type)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, _FORMATS[data_type].field).extend(array.ravel().tolist())
    return proto


def strings(values: Sequence[bytes]) -> Array:
    """An array of strings, [B]."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def padded(rows: Sequence[Sequence[float]], dtype: npt.DTypeLike) -> Array:
    """Rows of different lengths as one array [B, T], zeros behind each. Raises TensorError."""
    shape = (len(rows), max(map(len, rows), default=0))
    _check_size(shape)
    array: Array = np.zeros(shape, dtype)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def _read_shape(proto: Any) -> tuple[int, ...]:
    if proto.tensor_shape.unknown_rank:
        raise TensorError("its shape is unknown")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise TensorError(f"its shape {list(shape)} has a size below 0")
    if shape and shape[0] > MAX_ROWS:
        raise TensorError(f"its shape {list(shape)} is more than the {MAX_ROWS} rows that are allowed")
    _check_size(shape)
    return shape


def _check_size(shape: tuple[int, ...]) -> None:
    if max(math.prod(shape), *shape, 0) > MAX_ELEMENTS:
        raise TensorError(f"shape {list(shape)} is more than the {MAX_ELEMENTS} elements that are allowed")


def _from_values(values: Sequence[Any], dtype: np.dtype[Any], size: int) -> Array:
    is_string = dtype.hasobject
    kept = list(values[:size])
    rest: Any = kept[-1] if kept else (b"" if is_string else 0)
    if is_string and sum(map(len, kept)) + (size - len(kept)) * len(rest) > MAX_STRING_BYTES:
        raise TensorError(f"its strings hold more than the {MAX_STRING_BYTES} bytes that are allowed")
    array = np.empty(size, dtype)
    array[: len(kept)] = kept
    array[len(kept) :] = rest
    return array


def _from_content(content: bytes, dtype: np.dtype[Any], size: int) -> Array:
    if dtype.hasobject:
        return strings(list(_split(content, size)))
    if len(content) != size * dtype.itemsize:
        raise TensorError(
            f"tensor_content has {len(content)} bytes; {size} elements are {size * dtype.itemsize}"
        )
    return np.frombuffer(content, dtype)


def _split(content: bytes, size: int) -> Iterator[bytes]:
    """Strings as tensor_content has them: all lengths as varints, then all bytes."""
    lengths, at = [], 0
    for _ in range(size):
        length, at = _varint(content, at)
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise TensorError("tensor_content does not hold as many bytes as its strings have")
    for length in lengths:
        yield content[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a byte, and where the next begins."""
    value = 0
    for index, byte in enumerate(content[at : at + 5]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise TensorError("tensor_content ends within the lengths of its strings")
