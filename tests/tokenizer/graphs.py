"""The tokenizer in the graph beside `tokenizers`, for comparing the two."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tests.tokenizer import rules
from tokenizers import Tokenizer

from cadenza.export.text.compile import CompiledTokenizer, compile_tokenizer
from cadenza.export.text.graph import GraphTokenizer

_BATCH = 10_000


@dataclasses.dataclass(frozen=True)
class Pair:
    """One tokenizer, as itself and as a graph."""

    reference: Tokenizer
    compiled: CompiledTokenizer
    vocabulary_size: int
    tokenize: Callable[[Sequence[str | bytes]], tf.RaggedTensor]
    detokenize: Callable[[tf.RaggedTensor, bool], list[str]]

    @property
    def added_tokens(self) -> list[str]:
        return [token.content for token in self.reference.get_added_tokens_decoder().values()]

    def ids(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        rows: list[list[int]] = self.tokenize(texts).to_list()
        return rows

    def expected(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.reference.encode_batch(texts, add_special_tokens=False)]


def pair(tokenizer: Tokenizer, *, bos: int | None = None) -> Pair:
    """Builds the graph of a tokenizer."""
    compiled = compile_tokenizer(tokenizer.to_str())
    size = max(compiled.token_bytes) + 3
    graph = GraphTokenizer(compiled, size, bos)
    strings = tf.TensorSpec([None], tf.string)
    tokenize = tf.function(graph.tokenize, input_signature=[strings])
    ids = tf.RaggedTensorSpec([None, None], tf.int32, 1, tf.int64)
    back = {
        special: tf.function(functools.partial(graph.detokenize, special=special), input_signature=[ids])
        for special in (False, True)
    }
    return Pair(
        reference=tokenizer,
        compiled=compiled,
        vocabulary_size=size,
        tokenize=lambda texts: tokenize(tf.constant(list(texts), tf.string)),
        detokenize=lambda rows, special: [text.decode() for text in back[special](rows).numpy()],
    )


@functools.cache
def family(name: str) -> Pair:
    """The pair of one family of `rules`."""
    return pair(rules.FAMILIES[name]())


def differences(tested: Pair, texts: Sequence[str]) -> list[str]:
    """Texts whose ids differ, shortest first."""
    found: list[str] = []
    for batch in _batches(texts):
        got, expected = tested.tokenize(batch), tested.expected(batch)
        lengths = np.array([len(row) for row in expected])
        flat = np.array([token_id for row in expected for token_id in row], np.int32)
        if not _equal(got.row_lengths().numpy(), lengths) or not _equal(got.values.numpy(), flat):
            found += [
                text for text, row, other in zip(batch, got.to_list(), expected, strict=True) if row != other
            ]
    return sorted(found, key=len)


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(texts), _BATCH):
        yield texts[begin : begin + _BATCH]


def _equal(left: NDArray[np.generic], right: NDArray[np.generic]) -> bool:
    return left.shape == right.shape and bool((left == right).all())
