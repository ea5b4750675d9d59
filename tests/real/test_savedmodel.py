"""The float32 SavedModel against the oracle, through its `logits` signature as any TensorFlow user calls it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.data import artifact_tokenizer
from tests.real.checks import LogitsFunction, Reference, greedy_differences, mean_nll

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def logits(real_float32: Path) -> LogitsFunction:
    """The signature as a function of one sequence."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(real_float32)).signatures["logits"]

    def call(token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        outputs = signature(token_ids=tf.constant([token_ids], tf.int32))
        rows: npt.NDArray[np.float32] = outputs["logits"][0].numpy()
        return rows

    return call


@pytest.mark.parametrize(
    ("split_digits", "figure"),
    [(True, "humaneval_nll"), (False, "humaneval_nll_digits_undivided")],
    ids=["tokenized as the model was trained", "tokenized as the published figure was measured"],
)
def test_likelihood_of_the_humaneval_text_is_the_oracles(
    logits: LogitsFunction,
    real_float32: Path,
    reference: Reference,
    humaneval_text: str,
    split_digits: bool,
    figure: str,
) -> None:
    tokenizer = artifact_tokenizer(real_float32, split_digits=split_digits)
    token_ids = tokenizer.encode(humaneval_text).ids[: reference.humaneval_tokens]
    assert mean_nll(logits, token_ids) == pytest.approx(getattr(reference, figure), abs=5e-4)


def test_published_likelihood_of_the_humaneval_text_is_reached(reference: Reference) -> None:
    assert 1.675 < reference.humaneval_nll_digits_undivided < 1.677


def test_greedy_tokens_are_the_oracles(logits: LogitsFunction, reference: Reference) -> None:
    differences = [found for case in reference.greedy for found in greedy_differences(logits, case)]
    ties = [found for found in differences if found.is_tie]
    if ties:
        print(f"steps at which the oracle's own lead is within rounding, and tokens differ: {ties}")
    assert [found for found in differences if not found.is_tie] == []
    assert len(reference.greedy) == 20
