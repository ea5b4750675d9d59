"""Tensors of the Open Inference Protocol, raw and typed.

Raw is what the elements are as bytes, little-endian; each element of BYTES has its length before it, in
4 bytes. Inputs are single elements of BYTES and BOOL, outputs vectors of BYTES, FP32 and UINT32.
"""

import struct
from collections.abc import Sequence

from cadenza.kserve import inference_pb2 as oip

Values = Sequence[bytes] | Sequence[float]
_LENGTH_BYTES = 4


class TensorError(ValueError):
    """What was given is not the tensor that is wanted; the message says why."""


def read_element(
    tensor: oip.ModelInferRequest.InferInputTensor, datatype: str, raw: bytes | None
) -> bytes | bool:
    """The only element of a BYTES or BOOL tensor; `raw` is None where it is in the tensor's contents.

    Raises TensorError.
    """
    if tensor.datatype != datatype:
        raise TensorError(f"is of {tensor.datatype[:16] or 'no datatype'}; it must be of {datatype}")
    if any(size != 1 for size in tensor.shape):
        raise TensorError(f"has the shape {list(tensor.shape)[:8]}; it must have one element: [1]")
    if raw is None:
        return _typed(tensor.contents, datatype)
    return _raw_bytes(raw) if datatype == "BYTES" else _raw_bool(raw)


def add_output(
    response: oip.ModelInferResponse, name: str, datatype: str, values: Values, *, raw: bool
) -> None:
    """Adds a vector to a response; all of a response must be of one form."""
    tensor = response.outputs.add(name=name, datatype=datatype, shape=[len(values)])
    if raw:
        response.raw_output_contents.append(_as_bytes(datatype, values))
    elif datatype == "BYTES":
        tensor.contents.bytes_contents.extend(values)  # type: ignore[arg-type]
    elif datatype == "FP32":
        tensor.contents.fp32_contents.extend(values)  # type: ignore[arg-type]
    else:
        tensor.contents.uint_contents.extend(values)  # type: ignore[arg-type]


def _typed(contents: oip.InferTensorContents, datatype: str) -> bytes | bool:
    values = contents.bytes_contents if datatype == "BYTES" else contents.bool_contents
    if len(values) != 1:
        raise TensorError(f"has {len(values)} elements of {datatype} in its contents; its shape has 1")
    return values[0]


def _raw_bytes(raw: bytes) -> bytes:
    length = int.from_bytes(raw[:_LENGTH_BYTES], "little")
    if len(raw) < _LENGTH_BYTES or length != len(raw) - _LENGTH_BYTES:
        raise TensorError(
            f"has {len(raw)} bytes of raw content that begin with the length {length}; one element is its "
            f"length in {_LENGTH_BYTES} bytes, little-endian, and as many bytes"
        )
    return raw[_LENGTH_BYTES:]


def _raw_bool(raw: bytes) -> bool:
    if len(raw) != 1:
        raise TensorError(f"has {len(raw)} bytes of raw content; one element of BOOL has 1")
    return raw != b"\0"


def _as_bytes(datatype: str, values: Values) -> bytes:
    if datatype == "BYTES":
        return b"".join(len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in values)  # type: ignore[arg-type,operator]
    return struct.pack(f"<{len(values)}{'f' if datatype == 'FP32' else 'I'}", *values)
