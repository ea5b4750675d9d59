"""The decoder and the SavedModel of every family compute what transformers computes."""

from tests.families.cases import Case, digest
from tests.families.conftest import CaseReference, Models, assert_equals_reference

from cadenza.export.model import Precision


def test_weights_are_those_that_the_oracle_saw(case: Case, reference: CaseReference) -> None:
    assert digest(case) == reference.weights_sha256


def test_signature_gives_the_logits_and_greedy_tokens_of_transformers(
    exported: Case, models: Models, exported_reference: CaseReference
) -> None:
    assert_equals_reference(models.logits(exported, Precision.FLOAT32), exported_reference)


def test_decoder_gives_the_logits_and_greedy_tokens_of_transformers(
    case: Case, models: Models, reference: CaseReference
) -> None:
    assert_equals_reference(models.decoder(case), reference)


def test_context_is_what_the_settings_allow(case: Case, models: Models) -> None:
    settings = case.config
    context = settings.get("n_positions") or settings["max_position_embeddings"]
    window = settings.get("sliding_window") if case.architecture == "MistralForCausalLM" else None
    config = models.opened(case).blueprint.config
    assert config.max_context == (window or context)
