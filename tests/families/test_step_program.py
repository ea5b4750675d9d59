"""The step programs of every family compute what transformers computes, under XLA."""

from tests.export.step_driver import Bucket, StepDriver, step_logits
from tests.families.cases import Case
from tests.families.conftest import CaseReference, Models, assert_equals_reference

from cadenza.export.model import Precision
from cadenza.export.steps import StepProgram


def test_steps_give_the_logits_and_greedy_tokens_of_transformers(
    case: Case, models: Models, reference: CaseReference
) -> None:
    config, weights = models.opened(case).blueprint.config, models.variables(case)
    driver = StepDriver(StepProgram(config, weights, Precision.FLOAT32), num_blocks=40, block_size=8)
    assert_equals_reference(step_logits(driver, Bucket(rows=3, columns=48, blocks=20)), reference)
