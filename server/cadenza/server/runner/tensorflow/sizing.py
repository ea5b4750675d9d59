"""How a device's memory is shared between weights, workspace and KV cache: arithmetic, nothing else.

Sizes are bytes. The workspace is an estimate that leans high; what it leaves is the KV cache's.
"""

import dataclasses

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.tensorflow.buckets import Buckets
from cadenza.v1.manifest_pb2 import DecoderShape

BLOCK_SIZE = 32
"""Tokens in a KV block."""
_FLOAT = 4
_MLP_FACTOR = 8
"""Intermediate activations of an MLP, gate and up together, in hidden sizes; Llama's has 7.0, GPT-2's 4."""
_SCORE_COPIES = 2
"""Attention scores before and after the softmax."""
_LOGIT_COPIES = 3
"""Logits, their weights, and the weights in order; in float64 where they are summed."""


@dataclasses.dataclass(frozen=True, slots=True)
class NumberFormat:
    """Bytes of one number in each precision."""

    weight: float
    cache: int


FORMATS = {
    "float32": NumberFormat(weight=4, cache=4),
    "bfloat16": NumberFormat(weight=2, cache=2),
    "int8": NumberFormat(weight=1, cache=2),
}


def token_bytes(shape: DecoderShape, precision: str) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * FORMATS[precision].cache


def block_bytes(shape: DecoderShape, precision: str) -> int:
    """A KV block, all layers."""
    return BLOCK_SIZE * token_bytes(shape, precision)


def weight_bytes(parameters: int, precision: str) -> int:
    """The weights as the step program holds them; scales of int8 are below a percent."""
    return int(parameters * FORMATS[precision].weight)


def workspace_bytes(shape: DecoderShape, precision: str, limits: RunnerLimits) -> int:
    """What the largest compiled shape takes while it runs, beside weights and KV cache."""
    largest = 0
    for bucket in Buckets(limits).all:
        tokens, positions = bucket.rows * bucket.columns, bucket.blocks * limits.block_size
        activations = tokens * (_MLP_FACTOR + 4) * shape.hidden_size * _FLOAT
        scores = _SCORE_COPIES * tokens * shape.num_heads * positions * _FLOAT
        gathered = bucket.rows * positions * token_bytes(shape, precision) // shape.num_layers
        largest = max(largest, activations + scores + gathered)
    logits = limits.max_sequences * shape.vocabulary_size * (_LOGIT_COPIES * _FLOAT + 8)
    return largest + logits
