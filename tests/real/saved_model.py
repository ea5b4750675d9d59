"""The SavedModel as a `LogitsFunction`, by its `logits` signature as any TensorFlow user calls it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.real.checks import LogitsFunction


def load_logits(artifact: Path) -> LogitsFunction:
    """Loads the SavedModel with nothing but TensorFlow."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(artifact)).signatures["logits"]

    def logits(token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        outputs = signature(token_ids=tf.constant([token_ids], tf.int32))
        rows: npt.NDArray[np.float32] = outputs["logits"][0].numpy()
        return rows

    return logits
