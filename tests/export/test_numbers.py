"""What an artifact computes equals a float64 reference, through the SavedModel and the CPU program."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.export import tiny
from tests.export.conftest import Exported

IDS = np.random.default_rng(11).integers(0, 400, size=[2, 24])
FIXTURES = ["grouped_tied_int8", "gguf_float32", "separate_scaled_float32"]


@pytest.fixture
def exported(request: pytest.FixtureRequest) -> Exported:
    result: Exported = request.getfixturevalue(request.param)
    return result


def reference(exported: Exported) -> tiny.Array:
    """[2, T, V] of both sequences."""
    return np.stack(
        [tiny.reference_logits(exported.tiny, exported.weights, ids, exported.frequencies) for ids in IDS]
    )


def saved_model_logits(artifact: Path) -> tiny.Array:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(artifact))
    assert "logits" in loaded.signatures
    result: tiny.Array = loaded.signatures["logits"](token_ids=tf.constant(IDS, tf.int32))["logits"].numpy()
    assert result.dtype == np.float32
    return result


def relative_error(found: tiny.Array, expected: tiny.Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("exported", FIXTURES, indirect=True)
def test_logits_signature_equals_the_float64_reference(exported: Exported) -> None:
    assert relative_error(saved_model_logits(exported.artifact), reference(exported)) < 1e-5


@pytest.mark.parametrize("exported", ["gguf_float32", "separate_scaled_float32"], indirect=True)
def test_float32_cpu_program_equals_the_float64_reference(exported: Exported) -> None:
    program = tiny.CpuProgram(exported.artifact)
    attention = tiny.reference_attention(exported.tiny, exported.frequencies)
    found = np.stack([program.logits(ids, attention) for ids in IDS])
    assert relative_error(found, reference(exported)) < 1e-5


def test_int8_cpu_program_is_close_to_the_reference(grouped_tied_int8: Exported) -> None:
    program = tiny.CpuProgram(grouped_tied_int8.artifact)
    attention = tiny.reference_attention(grouped_tied_int8.tiny, grouped_tied_int8.frequencies)
    found = np.stack([program.logits(ids, attention) for ids in IDS])
    expected = reference(grouped_tied_int8)
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.06


def test_cpu_program_takes_any_number_of_rows_and_gives_each_row_alone_the_same(
    grouped_tied_int8: Exported,
) -> None:
    program = tiny.CpuProgram(grouped_tied_int8.artifact)
    first = program.segments[0].get_signature_runner("serving_default")
    rows = program.embedding[IDS[0]]
    together = first(hidden=rows)["qkv"]
    alone = [first(hidden=row[None])["qkv"][0] for row in rows]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_int8_matrices_have_one_scale_per_output_row_and_nothing_else_is_quantised(
    grouped_tied_int8: Exported,
) -> None:
    program = tiny.CpuProgram(grouped_tied_int8.artifact)
    matrices = []
    for interpreter in (*program.segments, program.head):
        for tensor in interpreter.get_tensor_details():
            scales = tensor["quantization_parameters"]["scales"]
            if tensor["dtype"] == np.int8:
                assert len(scales) == tensor["shape"][0], tensor["name"]
                matrices.append(tuple(int(size) for size in tensor["shape"]))
            else:
                assert len(scales) == 0, tensor["name"]
    layer = [(128, 64), (64, 64), (96, 64), (96, 64), (64, 96)]
    assert sorted(matrices) == sorted([*layer, *layer, (400, 64)])


def test_every_matmul_of_the_cpu_program_is_a_fully_connected_with_constant_weights(
    gguf_float32: Exported,
) -> None:
    program = tiny.CpuProgram(gguf_float32.artifact)
    names = [[op["op_name"] for op in part._get_ops_details()] for part in (*program.segments, program.head)]
    assert [part.count("FULLY_CONNECTED") for part in names] == [1, 5, 4, 1]
    assert not {"BATCH_MATMUL", "TRANSPOSE", "DEQUANTIZE"} & {name for part in names for name in part}


def test_interleaved_gguf_and_half_split_folder_give_the_same_weights(
    gguf_float32: Exported, grouped_tied_int8: Exported
) -> None:
    np.testing.assert_array_equal(
        saved_model_logits(gguf_float32.artifact), saved_model_logits(grouped_tied_int8.artifact)
    )


def test_weights_are_variables_and_not_constants_of_the_graph(gguf_float32: Exported) -> None:
    from tensorflow.core.framework import types_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((gguf_float32.artifact / "saved_model.pb").read_bytes())
    (graph,) = (meta.graph_def for meta in model.meta_graphs)
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    constants = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    largest = max(tensor.ByteSize() for tensor in constants if tensor.dtype == types_pb2.DT_FLOAT)
    assert largest < 64  # eight rotary frequencies


def test_saved_model_loads_with_tensorflow_alone(gguf_float32: Exported) -> None:
    program = (
        "import sys, tensorflow as tf\n"
        "logits = tf.saved_model.load(sys.argv[1]).signatures['logits']\n"
        "print(logits(token_ids=tf.constant([[1, 2, 3]]))['logits'].shape)\n"
        "assert not [name for name in sys.modules if name.startswith('cadenza')]\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program, str(gguf_float32.artifact)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "(1, 3, 400)", result.stderr
