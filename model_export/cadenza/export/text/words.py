"""From texts to words: added tokens cut out, normalization, pre-tokenization, in TensorFlow operations.

Pieces of all texts lie in flat vectors. Between pieces stands the byte 0xFF, which valid UTF-8 never has.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from cadenza.export.text.compile import CompiledTokenizer
from cadenza.export.text.composition import Composer
from cadenza.export.text.regex import SEPARATOR, Replacement, around

_NO_TOKEN = -1


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Texts, or tokens cut out of them, in order."""

    text: tf.Tensor
    """string [P]; empty for a token."""
    token: tf.Tensor
    """int32 [P]; the token's id, -1 for a text."""
    row: tf.Tensor
    """int64 [P]; the index of the text that it comes from, ascending."""


@dataclasses.dataclass(frozen=True)
class Words:
    """Words of the texts among pieces, in order."""

    text: tf.Tensor
    """string [W], none empty."""
    piece: tf.Tensor
    """int64 [W]; the index of the piece that it comes from, ascending."""


class WordSplitter(tf.Module):
    """The rules of one tokenizer that come before merging."""

    def __init__(self, compiled: CompiledTokenizer) -> None:
        super().__init__()
        self._raw = _TokenCutter(compiled.raw_tokens)
        self._normalized = _TokenCutter(compiled.normalized_tokens)
        self._composer = None if compiled.normalization is None else Composer(compiled.normalization)
        self._splits = compiled.splits

    def pieces(self, texts: tf.Tensor) -> Pieces:
        """Valid UTF-8 [B] -> texts between added tokens, normalized, and those tokens."""
        rows = tf.range(tf.size(texts, tf.int64))
        pieces = self._raw.cut(Pieces(texts, tf.fill(tf.shape(texts), _NO_TOKEN), rows))
        if self._composer is not None:
            pieces = dataclasses.replace(pieces, text=self._composer.compose(pieces.text))
        return self._normalized.cut(pieces)

    def words(self, pieces: Pieces) -> Words:
        """The pieces' texts, split into words."""
        text = pieces.text
        for split in self._splits:
            text = _replace(text, split)
        parts = tf.strings.split(text, SEPARATOR)
        is_word = tf.strings.length(parts.values) > 0
        return Words(tf.boolean_mask(parts.values, is_word), tf.boolean_mask(parts.value_rowids(), is_word))


class _TokenCutter(tf.Module):
    """Finds added tokens; where several begin at one place, the longest."""

    def __init__(self, tokens: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self._split: Replacement | None = None
        if tokens:
            self._split = around("|".join(_literal(token) for token, _ in tokens))
            self._ids = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    [token.encode() for token, _ in tokens],
                    [token_id for _, token_id in tokens],
                    key_dtype=tf.string,
                    value_dtype=tf.int32,
                ),
                default_value=_NO_TOKEN,
            )

    def cut(self, pieces: Pieces) -> Pieces:
        if self._split is None:
            return pieces
        parts = tf.strings.split(_replace(pieces.text, self._split), SEPARATOR)
        row = parts.value_rowids()
        # Between two separators stands a token: those are the odd parts of each text.
        is_token = (tf.range(tf.size(row, tf.int64)) - tf.gather(parts.row_starts(), row)) % 2 == 1
        found = self._ids.lookup(tf.where(is_token, parts.values, ""))
        return Pieces(
            text=tf.where(is_token, "", parts.values),
            token=tf.where(is_token, found, tf.gather(pieces.token, row)),
            row=tf.gather(pieces.row, row),
        )


def _replace(text: tf.Tensor, replacement: Replacement) -> tf.Tensor:
    return tf.strings.regex_replace(text, replacement.pattern, replacement.rewrite)


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)
