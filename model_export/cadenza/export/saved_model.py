"""The decoder as a plain SavedModel: float32 variables, standard operations, needs TensorFlow alone."""

from pathlib import Path

import tensorflow as tf

from cadenza.export import decoder
from cadenza.export.model import DecoderConfig, DecoderWeights


def write_saved_model(config: DecoderConfig, weights: DecoderWeights[tf.Variable], folder: Path) -> None:
    """Writes saved_model.pb and variables/ with the one signature `logits`."""
    module = tf.Module(name="decoder")
    module.weights = list(weights.leaves())
    signature = [tf.TensorSpec([None, None], tf.int32, "token_ids")]

    def logits(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        float32 = weights.map(lambda _, variable: tf.cast(variable, tf.float32))
        return {"logits": decoder.logits(config, float32, token_ids)}

    module.logits = tf.function(logits, input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"logits": module.logits})
