"""The float32 SavedModel against the oracle's raw logits and on a text of another kind than code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import NOVEL_CHAPTER, artifact_tokenizer, data_file
from tests.real.checks import LogitsFunction, Reference, mean_nll
from tests.real.saved_model import load_logits


@pytest.fixture(scope="module")
def logits(real_float32: Path) -> LogitsFunction:
    return load_logits(real_float32)


def test_logits_are_the_oracles(
    logits: LogitsFunction, real_float32: Path, oracle_output: Path, reference: Reference, humaneval_text: str
) -> None:
    expected = np.load(oracle_output / "logits.npy")
    token_ids = artifact_tokenizer(real_float32).encode(humaneval_text).ids[: reference.humaneval_tokens]
    found = logits(token_ids)[-len(expected) :]
    print(f"largest difference of {expected.size} logits: {np.abs(found - expected).max():.2e}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_likelihood_of_a_novels_chapter_is_the_oracles(
    logits: LogitsFunction, real_float32: Path, long_run: dict[str, Any], reference: Reference
) -> None:
    chapter = data_file(NOVEL_CHAPTER).read_text(encoding="utf-8")
    token_ids = artifact_tokenizer(real_float32).encode(chapter).ids[: reference.humaneval_tokens]
    nll = mean_nll(logits, token_ids)
    assert nll == pytest.approx(long_run["novel_mean_nll"], abs=1e-4)
    assert nll == pytest.approx(3.7906, abs=1e-3)
