"""The CPU program: the decoder cut at attention, as LiteRT flatbuffers (see CpuProgram in manifest.proto).

Every matmul becomes a FULLY_CONNECTED with constant weights, which XNNPACK takes; with int8 the weights get
one scale per output row and the activations are quantised as they come. One segment is converted at a time.
"""

import gc
import tempfile
from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf

from cadenza.export import decoder
from cadenza.export.model import Affine, DecoderConfig, LayerWeights

Tensors = Mapping[str, tf.Tensor]


class Segment:
    """One flatbuffer to be: its inputs, what it computes and the variables it reads; converts once."""

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, int],
        compute: Callable[..., Tensors],
        variables: Iterable[tf.Variable],
    ) -> None:
        self.name = name
        self._module = tf.Module()
        self._module.weights = list(variables)
        signature = [tf.TensorSpec([None, size], tf.float32, name) for name, size in inputs.items()]
        self._module.run = tf.function(compute, input_signature=signature, autograph=False)

    def convert(self, *, int8: bool) -> bytes:
        """The flatbuffer (weights int8 or float32), with a dynamic row count and one signature.

        The segment lets go of its variables: while it is converted, its weights are in memory only as often
        as the converter needs them.
        """
        with tempfile.TemporaryDirectory(prefix="cadenza-") as folder:
            tf.saved_model.save(self._module, folder, signatures=self._module.run)
            del self._module
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
            converter._trackable_obj = None  # noqa: SLF001  a copy of the weights that nothing reads
            gc.collect()  # a traced function is a cycle that holds its weights
            # Weights lie behind the flatbuffer instead of in it: spares several copies of them.
            converter._experimental_use_buffer_offset = True  # noqa: SLF001
            if int8:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            return bytes(converter.convert())


def head_segment(head: Affine[tf.Variable]) -> Segment:
    """Hidden states after the final norm -> logits."""
    return Segment(
        "head",
        {"hidden": head.weight.shape[1]},
        lambda hidden: {"logits": decoder.linear(head, hidden)},
        head.leaves(),
    )


def first_segment(config: DecoderConfig, layer: LayerWeights[tf.Variable]) -> Segment:
    """Rows of the embedding table -> q, k, v of layer 0."""
    return Segment(
        segment_name(0),
        {"hidden": config.hidden_size},
        lambda hidden: {"qkv": decoder.attention_input(config, layer, hidden)},
        layer.leaves(),
    )


def middle_segment(
    config: DecoderConfig, index: int, before: LayerWeights[tf.Variable], layer: LayerWeights[tf.Variable]
) -> Segment:
    """What follows the attention of layer index - 1, up to q, k, v of layer index."""

    def compute(hidden: tf.Tensor, attention: tf.Tensor) -> Tensors:
        hidden = decoder.after_attention(config, before, hidden, attention)
        return {"hidden": hidden, "qkv": decoder.attention_input(config, layer, hidden)}

    variables = [*before.leaves(), *layer.leaves()]
    return Segment(segment_name(index), _after_attention_inputs(config), compute, variables)


def last_segment(
    config: DecoderConfig, before: LayerWeights[tf.Variable], final_norm: Affine[tf.Variable]
) -> Segment:
    """What follows the attention of the last layer, up to the final norm."""

    def compute(hidden: tf.Tensor, attention: tf.Tensor) -> Tensors:
        hidden = decoder.after_attention(config, before, hidden, attention)
        return {"hidden": decoder.norm(config, final_norm, hidden)}

    variables = [*before.leaves(), *final_norm.leaves()]
    return Segment(segment_name(config.num_layers), _after_attention_inputs(config), compute, variables)


def segment_name(index: int) -> str:
    """The name of a segment, without the ending of its file."""
    return f"segment_{index:03d}"


def _after_attention_inputs(config: DecoderConfig) -> Mapping[str, int]:
    return {"hidden": config.hidden_size, "attention": config.query_size}
