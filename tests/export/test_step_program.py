"""The step programs as an artifact carries them: compiled by XLA for static shapes, against `logits`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tests.export.conftest import Exported
from tests.export.step_driver import Bucket, Chunk, Float32, StepDriver, step_logits

from cadenza.export import decoder
from cadenza.export.exporter import open_source
from cadenza.export.model import Precision
from cadenza.export.steps import StepProgram
from cadenza.v1.manifest_pb2 import ModelManifest

BLOCKS, BLOCK_SIZE = 24, 4
BUCKET = Bucket(rows=4, columns=8, blocks=8)
DECODE = Bucket(rows=4, columns=1, blocks=8)
TOKENS = np.random.default_rng(1).integers(0, 400, size=[2, 32]).tolist()
BOUNDS = {"bfloat16": 0.02, "int8": 0.05}
"""Root mean square of the logits' difference from float32, by that of the logits.

Float32 arithmetic on weights and factors rounded alike gives 0.0180 and 0.0448 for these random weights.
"""
ARTIFACTS = ["gguf_float32", "grouped_tied_int8", "separate_scaled_float32"]


@pytest.fixture(params=ARTIFACTS)
def artifact(request: pytest.FixtureRequest) -> Path:
    exported: Exported = request.getfixturevalue(request.param)
    return exported.artifact


@pytest.fixture(scope="module")
def steps(gguf_float32: Exported) -> Any:
    """The step programs of one artifact; what tests need to change they load for themselves."""
    return tf.saved_model.load(str(gguf_float32.artifact)).steps


@pytest.fixture(scope="module")
def expected(gguf_float32: Exported) -> list[Float32]:
    """The logits of TOKENS by the artifact's signature, [T, V] each."""
    return list(signature_logits(gguf_float32.artifact, TOKENS))


def signature_logits(artifact: Path, token_ids: Sequence[Sequence[int]]) -> Float32:
    loaded = tf.saved_model.load(str(artifact))
    rows: Float32 = loaded.signatures["logits"](token_ids=tf.constant(token_ids, tf.int32))["logits"].numpy()
    return rows


def assert_close(found: Float32, expected: Float32) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("xla", [True, False], ids=["xla", "plain graph"])
def test_chunks_of_a_sequence_in_shuffled_blocks_give_the_logits_of_the_signature(
    artifact: Path, xla: bool
) -> None:
    steps = tf.saved_model.load(str(artifact)).steps
    driver = StepDriver(steps.float32, BLOCKS, BLOCK_SIZE, xla=xla)
    found = step_logits(driver, BUCKET)(TOKENS[0])
    assert_close(found, signature_logits(artifact, TOKENS[:1])[0])


@pytest.mark.parametrize("precision", BOUNDS)
def test_lower_precisions_stay_within_their_bounds_of_the_signature(
    steps: Any, precision: str, expected: list[Float32]
) -> None:
    found = step_logits(StepDriver(getattr(steps, precision), BLOCKS, BLOCK_SIZE), BUCKET)(TOKENS[0])
    difference = np.linalg.norm(found - expected[0]) / np.linalg.norm(expected[0])
    assert difference <= BOUNDS[precision]


def test_prefill_and_decode_in_one_step_are_as_each_alone(steps: Any, expected: list[Float32]) -> None:
    driver = StepDriver(steps.float32, BLOCKS, BLOCK_SIZE)
    first, second = [5, 0, 9], [2, 7, 1]
    driver.logits(BUCKET, [Chunk(TOKENS[0][:8], 0, first)])
    mixed = driver.logits(BUCKET, [Chunk(TOKENS[1][:8], 0, second), Chunk(TOKENS[0][8:9], 8, first)])
    assert_close(mixed[0], expected[1][:8])
    assert_close(mixed[1], expected[0][8:9])
    decoded = driver.logits(DECODE, [Chunk(TOKENS[0][9:10], 9, first), Chunk(TOKENS[1][8:9], 8, second)])
    assert_close(decoded[0], expected[0][9:10])
    assert_close(decoded[1], expected[1][8:9])


def test_pieces_of_a_sequence_may_be_rows_of_one_step(steps: Any, expected: list[Float32]) -> None:
    driver = StepDriver(steps.float32, BLOCKS, BLOCK_SIZE)
    blocks = [7, 3, 12, 5]
    rows = [(8, 14), (0, 3), (3, 8)]
    found = driver.logits(BUCKET, [Chunk(TOKENS[0][begin:end], begin, blocks) for begin, end in rows])
    for (begin, end), piece in zip(rows, found, strict=True):
        assert_close(piece, expected[0][begin:end])


def test_last_is_the_hidden_state_of_each_rows_last_token(steps: Any) -> None:
    driver = StepDriver(steps.float32, BLOCKS, BLOCK_SIZE)
    last, every = driver.hidden(BUCKET, [Chunk(TOKENS[0][:5], 0, [3, 4]), Chunk(TOKENS[1][:8], 0, [1, 6])])
    np.testing.assert_array_equal(last[0], every[0, 4])
    np.testing.assert_array_equal(last[1], every[1, 7])


def test_a_shared_prefix_is_read_by_all_and_written_once(steps: Any, expected: list[Float32]) -> None:
    driver = StepDriver(steps.float32, BLOCKS, BLOCK_SIZE)
    prefix = TOKENS[0][:8]
    driver.logits(BUCKET, [Chunk(prefix, 0, [10, 3])])
    found = driver.logits(
        BUCKET, [Chunk(TOKENS[0][8:14], 8, [10, 3, 0, 1]), Chunk(TOKENS[0][8:11], 8, [10, 3, 7])]
    )
    assert_close(found[0], expected[0][8:14])
    assert_close(found[1], expected[0][8:11])


def test_a_copied_block_is_the_copys_own(steps: Any, expected: list[Float32]) -> None:
    driver = StepDriver(steps.float32, BLOCKS, BLOCK_SIZE)
    driver.logits(BUCKET, [Chunk(TOKENS[0][:6], 0, [2, 8])])
    driver.copy(4, [(8, 5), (2, 11)])
    other = driver.logits(DECODE, [Chunk([TOKENS[1][0]], 6, [11, 5])])
    kept = driver.logits(DECODE, [Chunk(TOKENS[0][6:7], 6, [2, 8])])
    assert_close(kept[0], expected[0][6:7])
    again = driver.logits(BUCKET, [Chunk([*TOKENS[0][:6], TOKENS[1][0]], 0, [20, 21])])
    assert_close(other[0], again[0][-1:])


def test_all_blocks_are_read_before_one_is_written(steps: Any) -> None:
    driver = StepDriver(steps.float32, BLOCKS, BLOCK_SIZE)
    one, two = ([Chunk(TOKENS[row][:4], 0, [row])] for row in range(2))
    driver.logits(BUCKET, [*one, *two])
    before = driver.logits(DECODE, [Chunk([1], 4, [0, 10]), Chunk([1], 4, [1, 11])])
    driver.copy(4, [(0, 1), (1, 0)])
    after = driver.logits(DECODE, [Chunk([1], 4, [0, 10]), Chunk([1], 4, [1, 11])])
    assert_close(after[0], before[1])
    assert_close(after[1], before[0])


def test_what_other_requests_left_in_blocks_and_scratch_does_no_harm(
    gguf_float32: Exported, expected: list[Float32]
) -> None:
    program = tf.saved_model.load(str(gguf_float32.artifact)).steps.float32
    driver = StepDriver(program, BLOCKS, BLOCK_SIZE)
    for pool in program._pools:
        pool.assign(tf.fill(tf.shape(pool), np.float32(np.nan)))
    found = driver.logits(BUCKET, [Chunk(TOKENS[0][:6], 0, [2, 8])])
    assert_close(found[0], expected[0][:6])
    last, every = driver.hidden(BUCKET, [Chunk(TOKENS[0][6:7], 6, [2, 8])])
    assert np.isfinite(last).all()
    assert np.isfinite(every).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bucket", [BUCKET, DECODE, Bucket(rows=1, columns=1, blocks=4)], ids=str)
def test_compiled_steps_have_static_shapes_and_update_the_cache_in_place(
    steps: Any, precision: str, bucket: Bucket
) -> None:
    driver = StepDriver(getattr(steps, precision), BLOCKS, BLOCK_SIZE)
    copies = tf.zeros([bucket.rows], tf.int32)
    assert_in_place(compiled(driver.advance, *driver.arguments(bucket, [])), layers=2)
    assert_in_place(compiled(driver.copy_blocks, copies, copies), layers=2)
    compiled(driver.head, tf.zeros([bucket.rows, 64]))


def compiled(function: Any, *arguments: tf.Tensor) -> str:
    """XLA's program for the arguments' shapes: no dimension is bounded, or found while it runs."""
    program: str = function.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    assert "ENTRY" in program
    assert not re.search(r"\[[^\]]*<=|set-dimension-size|PadToStatic|SliceToDynamic", program)
    return program


def assert_in_place(program: str, layers: int) -> None:
    """Every layer's pool is an output in the memory of an input, and nothing copies it."""
    assert len(re.findall(r"\(\d+, \{\}, (?:may|must)-alias\)", program)) == layers
    assert f"[{BLOCKS + 1},2,2,{BLOCK_SIZE},16]" in program
    assert not re.search(rf"\[{BLOCKS + 1},2,2,{BLOCK_SIZE},16\]\S* copy\(", program)


def test_released_weights_take_no_memory_and_are_not_missed(gguf_float32: Exported) -> None:
    loaded = tf.saved_model.load(str(gguf_float32.artifact))
    program = loaded.steps.int8
    driver = StepDriver(program, BLOCKS, BLOCK_SIZE)
    before = step_logits(driver, BUCKET)(TOKENS[0])
    program.release()
    after = step_logits(driver, BUCKET)(TOKENS[0])
    np.testing.assert_array_equal(after, before)
    matrices = [variable for variable in loaded.pipeline._generator._tracked if variable.shape.rank == 2]
    assert len(matrices) == 11
    assert [int(tf.size(variable.read_value())) for variable in matrices] == [0] * len(matrices)


def test_a_program_with_the_files_number_format_has_only_transposed_weights_of_its_own(steps: Any) -> None:
    steps.float32.prepare()
    own = dict(steps.float32._weights._own)
    assert own.keys() == {
        f"layer_{index:03d}_{name}"
        for index in range(2)
        for name in ("qkv", "attention_output", "gate", "up", "down")
    }
    assert tuple(own["layer_000_down"].read_value().shape) == (96, 64)


def test_weights_stored_as_bfloat16_are_widened_for_float32_and_shared_by_bfloat16(
    gguf_float32: Exported,
) -> None:
    opened = open_source(gguf_float32.source)
    config, load = opened.blueprint.config, opened.blueprint.load
    weights = opened.blueprint.weights.map(
        lambda name, parts: tf.Variable(tf.cast(load(parts, opened.source), tf.bfloat16), name=name)
    )
    driver = StepDriver(StepProgram(config, weights, Precision.FLOAT32), BLOCKS, BLOCK_SIZE)
    expected = decoder.logits(config, weights, tf.constant(TOKENS[:1], tf.int32))[0].numpy()
    assert_close(step_logits(driver, BUCKET)(TOKENS[0]), expected)
    shared = StepProgram(config, weights, Precision.BFLOAT16)
    assert "embedding" not in shared._weights._own


def test_steps_of_a_program_that_was_not_prepared_are_refused(gguf_float32: Exported) -> None:
    program = tf.saved_model.load(str(gguf_float32.artifact)).steps.int8
    program.allocate(BLOCKS, BLOCK_SIZE)
    nothing = tf.zeros([1], tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.function(program.advance, jit_compile=True)(nothing[None], nothing, nothing, nothing[None])


def test_a_layer_is_in_the_graph_once_for_each_precision(gguf_float32: Exported) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((gguf_float32.artifact / "saved_model.pb").read_bytes())
    functions = [function.signature.name for function in saved.meta_graphs[0].graph_def.library.function]
    assert len([name for name in functions if "_advance_layer" in name]) == 3


def test_the_manifest_tells_programs_and_axes(artifact: Path) -> None:
    text = (artifact / "assets.extra/manifest.json").read_text(encoding="utf-8")
    program = json_format.Parse(text, ModelManifest()).accelerator
    described = json_format.MessageToDict(program)
    assert described["precisions"] == ["PRECISION_INT8", "PRECISION_FLOAT32", "PRECISION_BFLOAT16"]
    assert described["stored"] == "PRECISION_FLOAT32"
    axes = {weight.name: list(weight.axes) for weight in program.weights}
    assert axes["qkv"] == ["qkv_heads", "hidden"]
    assert axes["down"] == ["hidden", "intermediate"]
    assert axes["embedding"] == ["vocabulary", "hidden"]
