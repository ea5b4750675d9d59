"""What all families use to read settings within bounds and to name a checkpoint's tensors."""

from collections.abc import Callable, Collection, Mapping

from cadenza.export import rotary
from cadenza.export.errors import TensorError
from cadenza.export.model import (
    Activation,
    Affine,
    DecoderConfig,
    DecoderWeights,
    FloatArray,
    Parts,
    StoredTensor,
    TensorSource,
    unchanged,
)
from cadenza.export.settings import Settings

MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_SIZE = 2**17
MAX_VOCABULARY = 2**20
MAX_CONTEXT = rotary.MAX_CONTEXT

_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}


def activation(settings: Settings, name: str, default: str) -> Activation:
    """An activation by the name that Hugging Face gives it.

    Raises:
        UnsupportedModelError: it is another one.
    """
    value = settings.get(name, default)
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        raise settings.refusal(name, "one of " + ", ".join(_ACTIVATIONS))
    return _ACTIVATIONS[value]


def head_dim(settings: Settings, hidden: int, heads: int, name: str) -> int:
    """The size of heads that share the hidden states between them.

    Raises:
        UnsupportedModelError: they cannot.
    """
    if hidden % heads:
        raise settings.refusal(name, f"a divisor of the hidden size, {hidden}")
    return hidden // heads


def check_heads(settings: Settings, config: DecoderConfig, kv_heads: str, rotated: str) -> None:
    """Refuses query heads that do not share key heads evenly, and rotary pairs that do not come out even.

    Raises:
        UnsupportedModelError: one of both.
    """
    if config.num_heads % config.num_kv_heads:
        raise settings.refusal(kv_heads, f"a divisor of the {config.num_heads} heads")
    if config.head_dim % 2:
        raise settings.refusal(rotated, "even, as rotary embeddings turn pairs")


def refuse_unknown(settings: Settings, prefix: str, known: Collection[str]) -> None:
    """Refuses GGUF metadata of the family that this exporter does not know.

    Raises:
        UnsupportedModelError: a name below the prefix is not among the known ones.
    """
    for name in settings:
        if name.startswith(prefix) and name.removeprefix(prefix) not in known:
            raise settings.refusal(name, "absent: this exporter does not know it")


def vector(name: str, size: int) -> Parts:
    """One tensor of one dimension."""
    return (StoredTensor(name, (size,)),)


def matrix(name: str, rows: int, columns: int) -> Parts:
    """One tensor of two dimensions, outputs by inputs."""
    return (StoredTensor(name, (rows, columns)),)


def norm(name: str, size: int, *, bias: bool = False) -> Affine[Parts]:
    """NAME.weight and, if it has one, NAME.bias."""
    return Affine(vector(f"{name}.weight", size), vector(f"{name}.bias", size) if bias else None)


def linear(
    name: str,
    rows: int,
    columns: int,
    *,
    bias: bool = False,
    transform: Callable[[FloatArray], FloatArray] = unchanged,
) -> Affine[Parts]:
    """NAME.weight, outputs by inputs, and, if it has one, NAME.bias; both transformed."""
    weight = StoredTensor(f"{name}.weight", (rows, columns), transform)
    return Affine((weight,), (StoredTensor(f"{name}.bias", (rows,), transform),) if bias else None)


def stacked(*parts: Affine[Parts]) -> Affine[Parts]:
    """Linear layers of the same input as one, outputs one below the other; all or none have biases."""
    biases = [part.bias for part in parts if part.bias is not None]
    weight = tuple(tensor for part in parts for tensor in part.weight)
    return Affine(weight, tuple(tensor for bias in biases for tensor in bias) if biases else None)


def tied_copies(source: TensorSource, weights: DecoderWeights[Parts], head: str) -> Mapping[str, str]:
    """What `Blueprint.copies` holds: a head that a checkpoint stores though it is tied to the embedding."""
    return {head: weights.embedding[0].name} if weights.tied and head in source.shapes else {}


def vocabulary(source: TensorSource, embedding: str) -> int:
    """Rows of the embedding, for formats whose settings do not tell them.

    Raises:
        TensorError: the tensor is missing, or has more rows than a vocabulary may.
    """
    if embedding not in source.shapes:
        raise TensorError(f"tensor {embedding} is missing; its rows are the vocabulary")
    rows = source.shapes[embedding][0]
    if not 1 <= rows <= MAX_VOCABULARY:
        raise TensorError(f"tensor {embedding} has {rows} rows; a vocabulary may have 1 to {MAX_VOCABULARY}")
    return rows
