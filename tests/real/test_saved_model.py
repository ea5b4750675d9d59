"""The float32 SavedModel against the oracle."""

from pathlib import Path

import pytest
from tests.data import artifact_tokenizer
from tests.real.checks import LogitsFunction, Reference, greedy_differences, mean_nll
from tests.real.saved_model import load_logits

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def logits(real_float32: Path) -> LogitsFunction:
    return load_logits(real_float32)


def test_likelihood_of_the_humaneval_text_is_the_oracles(
    logits: LogitsFunction, real_float32: Path, reference: Reference, humaneval_text: str
) -> None:
    token_ids = artifact_tokenizer(real_float32).encode(humaneval_text).ids[: reference.humaneval_tokens]
    assert mean_nll(logits, token_ids) == pytest.approx(reference.humaneval_nll, abs=1e-4)


def test_published_likelihood_is_reached_on_the_tokens_it_was_measured_on(
    logits: LogitsFunction, real_float32: Path, reference: Reference, humaneval_text: str
) -> None:
    tokenizer = artifact_tokenizer(real_float32, split_digits=False)
    nll = mean_nll(logits, tokenizer.encode(humaneval_text).ids[: reference.humaneval_tokens])
    assert 1.675 < nll < 1.677
    assert nll == pytest.approx(reference.humaneval_nll_digits_undivided, abs=1e-4)


def test_greedy_tokens_are_the_oracles(logits: LogitsFunction, reference: Reference) -> None:
    differences = [found for case in reference.greedy for found in greedy_differences(logits, case)]
    ties = [found for found in differences if found.is_tie]
    if ties:
        print(f"steps at which the oracle's own lead is within rounding, and tokens differ: {ties}")
    assert [found for found in differences if not found.is_tie] == []
    assert len(reference.greedy) == 20
