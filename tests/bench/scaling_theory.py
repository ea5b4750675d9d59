"""What theory counts for a decoder: operations and bytes, from the sizes in its manifest.

A token goes once through every weight of the layers, and attends to every position up to its own:

    operations of a prompt of P tokens = 2 N P + 2 V d + 4 L H h P (P + 1) / 2
    operations of a decode step        = B (2 N + 2 V d + 4 L H h C)
    bytes of a decode step             = weights, as often as lanes read them + B C * KV bytes a token

N weights of the layers, V vocabulary, d hidden size, L layers, H query heads of size h, B sequences, C
positions. A multiplication and an addition are two operations; norms, softmax and rotary embedding are not
counted.
"""

import dataclasses

from cadenza.v1.manifest_pb2 import PRECISION_INT8, ModelManifest


@dataclasses.dataclass(frozen=True, slots=True)
class Theory:
    """The counts of one model."""

    row_operations: int
    """2 N: of a row in the layers."""
    head_operations: int
    """2 V d: of a row whose logits are wanted."""
    position_operations: int
    """4 L H h: of one row's attention to one position, all layers."""
    weight_bytes: int
    """Of layers and head: what a decode step reads."""
    position_bytes: int
    """Keys and values of one position, all layers."""

    @classmethod
    def of(cls, manifest: ModelManifest) -> "Theory":
        """For a model whose head is its embedding, so that parameter_count has that matrix once."""
        shape = manifest.decoder
        embedding = shape.vocabulary_size * shape.hidden_size
        narrow = manifest.cpu.precision == PRECISION_INT8
        kv_numbers = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
        return cls(
            row_operations=2 * (manifest.parameter_count - embedding),
            head_operations=2 * embedding,
            position_operations=4 * shape.num_layers * shape.num_heads * shape.head_dim,
            weight_bytes=manifest.parameter_count * (1 if narrow else 4),
            position_bytes=kv_numbers * (2 if narrow else 4),
        )


def prompt_positions(length: int) -> int:
    """How many positions a prompt's tokens attend to in all: each to those before it and to itself."""
    return length * (length + 1) // 2
