"""The CPU program: the decoder cut at attention, as LiteRT flatbuffers (see CpuProgram in manifest.proto).

Every matmul becomes a FULLY_CONNECTED with constant weights, which XNNPACK takes; with int8 the weights get
one scale per output row and the activations are quantised as they come. One segment is converted at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow as tf

from cadenza.export import decoder
from cadenza.export.model import DecoderConfig, DecoderWeights

Tensors = Mapping[str, tf.Tensor]


class Segment:
    """One flatbuffer to be: its inputs, what it computes and the variables it reads."""

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, int],
        compute: Callable[..., Tensors],
        variables: Sequence[tf.Variable],
    ) -> None:
        self.name = name
        self._inputs = inputs
        self._compute = compute
        self._variables = variables

    def convert(self, *, int8: bool) -> bytes:
        """The flatbuffer (weights int8 or float32), with a dynamic row count and one signature."""
        module = tf.Module()
        module.weights = list(self._variables)
        signature = [tf.TensorSpec([None, size], tf.float32, name) for name, size in self._inputs.items()]
        module.run = tf.function(self._compute, input_signature=signature, autograph=False)
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.run.get_concrete_function()], module
        )
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return bytes(converter.convert())


def segments(config: DecoderConfig, weights: DecoderWeights[tf.Variable]) -> Iterator[Segment]:
    """The num_layers + 1 segments in order, then the head."""
    for index in range(config.num_layers + 1):
        yield _segment(config, weights, index)
    yield Segment(
        "head",
        {"hidden": config.hidden_size},
        lambda hidden: {"logits": decoder.linear(weights.head, hidden)},
        [weights.head],
    )


def _segment(config: DecoderConfig, weights: DecoderWeights[tf.Variable], index: int) -> Segment:
    before = weights.layers[index - 1] if index > 0 else None
    after = weights.layers[index] if index < config.num_layers else None

    def compute(hidden: tf.Tensor, attention: tf.Tensor | None = None) -> Tensors:
        outputs = {}
        if before is not None:
            hidden = decoder.after_attention(config, before, hidden, attention)
            outputs["hidden"] = hidden if after is not None else decoder.final_norm(config, weights, hidden)
        if after is not None:
            outputs["qkv"] = decoder.attention_input(config, after, hidden)
        return outputs

    inputs = {"hidden": config.hidden_size}
    variables = []
    if before is not None:
        inputs["attention"] = config.query_size
        variables += [before.attention_output, before.mlp_norm, before.gate, before.up, before.down]
    variables += [weights.final_norm] if after is None else [after.attention_norm, after.qkv]
    return Segment(f"segment_{index:03d}", inputs, compute, variables)
