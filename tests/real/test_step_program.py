"""The real model's step programs, compiled by XLA on the CPU, against the oracle."""

from pathlib import Path
from typing import Any

import pytest
from tests.data import artifact_tokenizer
from tests.export.step_driver import Bucket, StepDriver, step_logits
from tests.real.checks import Reference, greedy_differences, mean_nll

pytestmark = pytest.mark.real_model

CASES = slice(0, 20, 4)
TOKENS = 128
LOSS = {"bfloat16": 0.01, "int8": 0.015}
"""How much the mean negative log-likelihood of the text may differ from float32's, in nats."""


@pytest.fixture(scope="module")
def steps(real_float32: Path) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(str(real_float32)).steps


def test_greedy_tokens_in_float32_are_the_oracles(steps: Any, reference: Reference) -> None:
    logits = step_logits(StepDriver(steps.float32, num_blocks=64, block_size=16), Bucket(2, 64, 32))
    differences = [found for case in reference.greedy[CASES] for found in greedy_differences(logits, case)]
    assert [found for found in differences if not found.is_tie] == []


def test_precisions_keep_the_likelihood_of_a_text(
    steps: Any, real_float32: Path, humaneval_text: str
) -> None:
    token_ids = artifact_tokenizer(real_float32).encode(humaneval_text).ids[:TOKENS]
    found = {}
    for precision in ("float32", *LOSS):
        driver = StepDriver(getattr(steps, precision), num_blocks=16, block_size=16)
        found[precision] = mean_nll(step_logits(driver, Bucket(2, 64, 8)), token_ids)
    print(f"mean negative log-likelihood of {TOKENS} tokens: {found}")
    for precision, bound in LOSS.items():
        assert found[precision] == pytest.approx(found["float32"], abs=bound)
