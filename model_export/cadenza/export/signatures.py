"""The signatures that every artifact has: names, number formats and dimensions of inputs and outputs."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

Tensors = Mapping[str, tuple[tf.DType, int]]
"""Number format and count of dimensions by name."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """One signature; the first dimension of every tensor is the batch."""

    inputs: Tensors
    outputs: Tensors


SIGNATURES: Mapping[str, Signature] = {
    "serving_default": Signature({"prompt": (tf.string, 1)}, {"completion": (tf.string, 1)}),
    "complete": Signature(
        {
            "prompt": (tf.string, 1),
            "max_tokens": (tf.int32, 1),
            "temperature": (tf.float32, 1),
            "top_k": (tf.int32, 1),
            "top_p": (tf.float32, 1),
            "seed": (tf.int64, 1),
        },
        {
            "completion": (tf.string, 1),
            "token_ids": (tf.int32, 2),
            "token_count": (tf.int32, 1),
            "finish_reason": (tf.string, 1),
        },
    ),
    "tokenize": Signature({"text": (tf.string, 1)}, {"token_ids": (tf.int32, 2), "length": (tf.int32, 1)}),
    "detokenize": Signature({"token_ids": (tf.int32, 2), "length": (tf.int32, 1)}, {"text": (tf.string, 1)}),
    "score": Signature({"text": (tf.string, 1)}, {"logprob": (tf.float32, 2), "length": (tf.int32, 1)}),
    "logits": Signature({"token_ids": (tf.int32, 2)}, {"logits": (tf.float32, 3)}),
}
