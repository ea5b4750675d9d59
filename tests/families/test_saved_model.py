"""The SavedModel of every family computes what transformers computes."""

import numpy as np
from tests.families.cases import PROMPTS, Case, digest, kept
from tests.families.conftest import CaseReference, Models
from tests.real.checks import LogitsFunction

from cadenza.export.model import Precision

LARGEST_DIFFERENCE = 1e-4


def assert_equals_reference(logits: LogitsFunction, reference: CaseReference) -> None:
    """Logits within LARGEST_DIFFERENCE of the largest one; the greedy token at every step."""
    assert len(reference.prompts) == len(PROMPTS)
    for part in reference.prompts:
        found = logits([*part.prompt, *part.completion])
        difference = np.abs(kept(found) - part.logits).max()
        assert difference <= LARGEST_DIFFERENCE * part.largest_logit
        assert found[len(part.prompt) - 1 : -1].argmax(axis=-1).tolist() == part.completion


def test_weights_are_those_that_the_oracle_saw(case: Case, reference: CaseReference) -> None:
    assert digest(case) == reference.weights_sha256


def test_logits_and_greedy_tokens_are_those_of_transformers(
    case: Case, models: Models, reference: CaseReference
) -> None:
    assert_equals_reference(models.logits(case, Precision.FLOAT32), reference)


def test_context_is_what_the_settings_allow(case: Case, models: Models) -> None:
    settings = case.config
    context = settings.get("n_positions") or settings["max_position_embeddings"]
    window = settings.get("sliding_window") if case.architecture == "MistralForCausalLM" else None
    config = models.opened(case).blueprint.config
    assert config.max_context == (window or context)
