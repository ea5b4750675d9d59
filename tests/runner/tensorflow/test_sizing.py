"""How a device's memory is shared, by numbers that a reader can check."""

from pathlib import Path

import pytest
from tests.bench import sizing

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.tensorflow.sizing import block_bytes, token_bytes, weight_bytes, workspace_bytes

GPT2_XL, LLAMA3_8B, GPT3 = sizing.MODELS
DOCS = Path(__file__).parents[3] / "docs"


def test_keys_and_values_of_a_token_are_two_numbers_per_layer_head_and_dimension() -> None:
    assert token_bytes(GPT2_XL.shape, "float32") == 2 * 48 * 25 * 64 * 4
    assert token_bytes(LLAMA3_8B.shape, "bfloat16") == 128 << 10
    assert token_bytes(LLAMA3_8B.shape, "int8") == token_bytes(LLAMA3_8B.shape, "bfloat16")
    assert block_bytes(LLAMA3_8B.shape, "bfloat16") == 4 << 20


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_weights_take_their_precisions_bytes(precision: str, size: int) -> None:
    assert weight_bytes(1000, precision) == 1000 * size


def test_the_workspace_grows_with_what_a_step_may_hold() -> None:
    small = RunnerLimits(
        block_size=32, num_blocks=99, max_step_tokens=128, max_sequences=16, max_context=4096
    )
    large = RunnerLimits(
        block_size=32, num_blocks=99, max_step_tokens=1024, max_sequences=256, max_context=4096
    )
    assert workspace_bytes(LLAMA3_8B.shape, "bfloat16", small) > 0
    assert workspace_bytes(LLAMA3_8B.shape, "bfloat16", large) > 4 * workspace_bytes(
        LLAMA3_8B.shape, "bfloat16", small
    )


def test_the_roofline_is_the_slower_of_memory_and_arithmetic() -> None:
    found = sizing.fit(LLAMA3_8B, sizing.H100, "bfloat16", shards=1, replicas=1)
    assert found.batch == 256
    read = 2 * 8_030_261_248 + 256 * 1024 * (128 << 10)
    assert found.tokens_per_second == pytest.approx(256 / (read / 3.35e12))


def test_what_does_not_fit_has_no_batch() -> None:
    found = sizing.fit(GPT3, sizing.H100, "int8", shards=1, replicas=1)
    assert (found.kv_tokens, found.batch) == (0, 0)


def test_the_docs_have_the_table_as_it_is_computed() -> None:
    text = (DOCS / "devices.md").read_text(encoding="utf-8")
    assert [row for row in sizing.rows() if row not in text] == []
