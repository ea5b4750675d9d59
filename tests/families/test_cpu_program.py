"""The CPU program of every family, by the real runner, computes what transformers computes."""

import numpy as np
import pytest
from tests.families.cases import GREEDY_TOKENS, Case
from tests.families.catalogue import EXPORTED
from tests.families.conftest import CaseReference, Models, assert_equals_reference
from tests.real.cpu_program import KINDS, generate, step_logits

from cadenza.export.model import Precision
from cadenza.server.engine.request import GREEDY
from cadenza.server.runner.base import SequenceSlice, StepBatch
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.litert import LiteRTRunner

INT8_ERROR = {"GPT2LMHeadModel": 0.04, "GPTNeoXForCausalLM": 0.045}
"""Largest root mean square error of int8 logits relative to theirs, of families with LayerNorm."""
INT8_ERROR_GATED = 0.08
INT8_CASES = [case for case in EXPORTED if case.name.startswith(("gpt_neox", "qwen3"))]
BFLOAT16_CASES = [case for case in EXPORTED if case.name.startswith("gpt2")]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[CpuRunner]:
    """Either runner of CPU programs."""
    found: type[CpuRunner] = request.param
    return found


def test_logits_and_greedy_tokens_are_those_of_transformers(
    exported: Case, kind: type[CpuRunner], models: Models, exported_reference: CaseReference
) -> None:
    assert_equals_reference(models.runner(exported, Precision.FLOAT32, kind).logits, exported_reference)


def test_logits_are_equal_bit_for_bit_alone_in_a_ragged_batch_and_on_any_number_of_lanes(
    exported: Case, kind: type[CpuRunner], models: Models, exported_reference: CaseReference
) -> None:
    two, one = (models.runner(exported, Precision.FLOAT32, kind, lanes=lanes) for lanes in (2, 1))
    prompts = [part.prompt for part in exported_reference.prompts]
    together = step_logits(two, StepBatch([ragged(index, prompt) for index, prompt in enumerate(prompts)]))
    for prompt, expected in zip(prompts, together, strict=True):
        for runner in (two, one):
            assert np.array_equal(step_logits(runner, StepBatch([ragged(0, prompt)]))[0], expected)
        assert np.array_equal(one.logits(prompt)[-1], expected)


def test_greedy_tokens_of_a_ragged_batch_in_chunks_are_those_of_transformers(
    exported: Case, kind: type[CpuRunner], models: Models, exported_reference: CaseReference
) -> None:
    runner = models.runner(exported, Precision.FLOAT32, kind)
    prompts = [part.prompt for part in exported_reference.prompts]
    tables = [blocks(index) for index in range(len(prompts))]
    found = generate(runner, prompts, GREEDY_TOKENS, chunk=7, blocks=tables)
    assert found == [part.completion for part in exported_reference.prompts]


@pytest.mark.parametrize("case", INT8_CASES, ids=lambda case: case.file_name)
def test_int8_program_is_close_to_the_float32_saved_model(
    case: Case, models: Models, references: dict[str, CaseReference]
) -> None:
    part = references[case.name].prompts[-1]
    token_ids = [*part.prompt, *part.completion]
    expected = models.logits(case, Precision.FLOAT32)(token_ids)
    found = models.runner(case, Precision.INT8, LiteRTRunner).logits(token_ids)
    error = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
    assert error < INT8_ERROR.get(case.architecture, INT8_ERROR_GATED)


@pytest.mark.parametrize("case", BFLOAT16_CASES, ids=lambda case: case.file_name)
def test_bfloat16_saved_model_and_program_hold_the_same_rounded_weights(
    case: Case, models: Models, references: dict[str, CaseReference]
) -> None:
    import tensorflow as tf

    part = references[case.name].prompts[-1]
    saved = models.logits(case, Precision.BFLOAT16)(part.prompt)
    program = models.runner(case, Precision.BFLOAT16, LiteRTRunner).logits(part.prompt)
    assert np.abs(saved - program).max() <= 1e-4 * np.abs(saved).max()
    exact = models.logits(case, Precision.FLOAT32)(part.prompt)
    assert 1e-4 < np.abs(saved - exact).max() / np.abs(exact).max() < 0.05
    variables = tf.train.load_checkpoint(
        str(models.artifact(case, Precision.BFLOAT16) / "variables/variables")
    )
    shapes = variables.get_variable_to_shape_map()
    kinds = [
        kind
        for name, kind in variables.get_variable_to_dtype_map().items()
        if "OBJECT_GRAPH" not in name and 0 not in shapes[name]  # the step programs' own are empty
    ]
    assert tf.bfloat16 in kinds
    assert tf.float32 not in kinds


def ragged(index: int, prompt: list[int]) -> SequenceSlice:
    """A whole prompt in blocks of its own."""
    return SequenceSlice(prompt, 0, blocks(index), GREEDY)


def blocks(index: int) -> range:
    """The KV blocks of a batch's sequence: enough for the longest prompt and its continuation."""
    return range(4 * index, 4 * index + 4)
