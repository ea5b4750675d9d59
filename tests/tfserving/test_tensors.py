"""TensorProtos are read and written as TensorFlow does it."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, tensor_pb2

from cadenza.server.rpc.tfserving.tensors import (
    MAX_ELEMENTS,
    MAX_ROWS,
    MAX_STRING_BYTES,
    TensorError,
    padded,
    read_tensor,
    strings,
    write_tensor,
)

ARRAYS = [
    np.array([1, -2, 2**31 - 1], np.int32),
    np.array([[2**63 - 1], [-(2**63)]], np.int64),
    np.array([[0.1, np.inf], [-0.0, 3e38]], np.float32),
    np.array(7, np.int32),
    np.zeros([3, 0], np.float32),
    np.zeros([0], np.int64),
    strings([b"caf\xc3\xa9", b"", b"\xff\x00"]),
    strings([b"x" * 300] * 2).reshape(1, 2),
]


def _proto(dtype: str, shape: list[int], **fields: Any) -> Any:
    proto = tensor_pb2.TensorProto(dtype=f"DT_{dtype}", **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def _as_tensorflow_reads(proto: Any) -> Any:
    """By the kernel of a constant, which parses the proto in C++ as TensorFlow Serving does."""
    with tf.Graph().as_default() as graph:
        attributes = {
            "value": attr_value_pb2.AttrValue(tensor=proto),
            "dtype": attr_value_pb2.AttrValue(type=proto.dtype),
        }
        dtype = tf.dtypes.as_dtype(proto.dtype)
        operation = graph.create_op("Const", [], [dtype], attrs=attributes, name="constant")
        with tf.compat.v1.Session(graph=graph) as session:
            return session.run(operation.outputs[0])


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_what_tensorflow_writes_is_read_and_what_is_written_tensorflow_reads(array: Any) -> None:
    read = read_tensor(tf.make_tensor_proto(array))
    assert read.shape == array.shape
    assert read.dtype == array.dtype
    assert read.tolist() == array.tolist()
    again = tf.make_ndarray(write_tensor(array))
    assert again.shape == array.shape
    assert again.tolist() == array.tolist()


@pytest.mark.parametrize(
    "proto",
    [
        _proto("INT32", [2, 3], int_val=[7]),
        _proto("INT32", [4], int_val=[1, 2]),
        _proto("INT32", [2], int_val=[1, 2, 3]),
        _proto("INT32", [2]),
        _proto("FLOAT", [3], float_val=[0.5]),
        _proto("STRING", [3], string_val=[b"a", b"bc"]),
        _proto("STRING", [2]),
        _proto("STRING", [3], tensor_content=b"\x01\x00\x02abc"),
        _proto("STRING", [1], tensor_content=b"\xac\x02" + b"y" * 300),
        _proto("INT64", [2], tensor_content=bytes(range(16))),
    ],
    ids=lambda proto: " ".join(str(proto).split()),
)
def test_short_and_packed_protos_mean_what_they_mean_to_tensorflow(proto: Any) -> None:
    expected = _as_tensorflow_reads(proto)
    read = read_tensor(proto)
    assert read.shape == expected.shape
    assert read.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("proto", "what"),
    [
        (_proto("INT32", [-1], int_val=[7]), "a size below 0"),
        (tensor_pb2.TensorProto(dtype="DT_INT32", tensor_shape={"unknown_rank": True}), "shape is unknown"),
        (_proto("INT32", [2], tensor_content=b"123"), "3 bytes; 2 elements are 8"),
        (_proto("STRING", [2], tensor_content=b"\x01"), "within the lengths"),
        (_proto("STRING", [1], tensor_content=b"\x05abc"), "as many bytes"),
        (_proto("STRING", [1], tensor_content=b"\xff" * 9), "within the lengths"),
        (_proto("DOUBLE", [1], double_val=[1]), "double is not a type"),
        (_proto("INT32", [MAX_ROWS + 1], int_val=[7]), "more than the 16384 rows"),
        (_proto("INT32", [1, MAX_ELEMENTS + 1], int_val=[7]), "more than the 1048576 elements"),
        (_proto("INT32", [2, 2**62], int_val=[7]), "more than the 1048576 elements"),
        (_proto("INT32", [0, 2**62]), "more than the 1048576 elements"),
        (_proto("STRING", [1000], string_val=[b"x" * (MAX_STRING_BYTES // 999)]), "4194304 bytes"),
    ],
)
def test_a_proto_that_is_no_tensor_or_too_large_is_refused_by_name(proto: Any, what: str) -> None:
    with pytest.raises(TensorError, match=what):
        read_tensor(proto)


def test_rows_are_padded_with_zeros_and_a_matrix_that_is_too_large_is_not_made() -> None:
    assert padded([(1, 2), (), (3,)], np.int32).tolist() == [[1, 2], [0, 0], [3, 0]]
    assert padded([], np.int32).shape == (0, 0)
    with pytest.raises(TensorError, match="more than the 1048576 elements"):
        padded([range(2000), *[()] * 1000], np.int32)
