"""`complete` generates transformers' greedy tokens from text, alone and in a ragged batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tests.families.cases import GREEDY_TOKENS, PROMPTS, Case
from tests.families.conftest import CaseReference, Models

from cadenza.export.model import Precision


def complete(artifact: Path, prompts: Sequence[str]) -> list[list[int]]:
    """The greedy token ids of every prompt."""
    rows = len(prompts)
    outputs = tf.saved_model.load(str(artifact)).signatures["complete"](
        prompt=tf.constant(prompts),
        max_tokens=tf.fill([rows], GREEDY_TOKENS),
        temperature=tf.zeros([rows]),
        top_k=tf.zeros([rows], tf.int32),
        top_p=tf.ones([rows]),
        seed=tf.zeros([rows], tf.int64),
    )
    assert outputs["finish_reason"].numpy().tolist() == [b"length"] * rows
    np.testing.assert_array_equal(outputs["token_count"], [GREEDY_TOKENS] * rows)
    token_ids: list[list[int]] = outputs["token_ids"].numpy().tolist()
    return token_ids


def test_tokens_are_those_of_transformers_alone_and_in_a_ragged_batch(
    exported: Case, models: Models, exported_reference: CaseReference
) -> None:
    artifact = models.artifact(exported, Precision.FLOAT32)
    expected = [part.completion for part in exported_reference.prompts]
    assert complete(artifact, PROMPTS) == expected
    assert complete(artifact, PROMPTS[2:3]) == expected[2:3]
