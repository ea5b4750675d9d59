"""A byte-level BPE tokenizer as a TensorFlow module: standard operations and static tables only."""

import tensorflow as tf

from cadenza.export.text.compile import CompiledTokenizer
from cadenza.export.text.merges import Merger
from cadenza.export.text.words import Pieces, WordSplitter


class GraphTokenizer(tf.Module):
    """Text to token ids and back, with the results of `tokenizers`, for any batch and any bytes."""

    def __init__(self, compiled: CompiledTokenizer, vocabulary_size: int, bos_token_id: int | None) -> None:
        """`vocabulary_size` bounds the ids that `detokenize` takes; `bos_token_id` goes before every text."""
        super().__init__()
        self._splitter = WordSplitter(compiled)
        self._merger = Merger(compiled)
        self._bos_token_id = bos_token_id
        self._vocabulary_size = vocabulary_size
        tokens = [compiled.token_bytes.get(token_id, b"") for token_id in range(vocabulary_size)]
        self._tokens = tf.constant(tokens, tf.string)
        self._is_special = tf.constant(
            [token_id in compiled.special_ids for token_id in range(vocabulary_size)]
        )
        text, flag = tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.bool)
        ids = tf.RaggedTensorSpec([None, None], tf.int32)
        self._tokenize = tf.function(self._tokenized, input_signature=[text], autograph=False)
        self._detokenize = tf.function(self._detokenized, input_signature=[ids, flag], autograph=False)

    def tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of each text: string [B] -> int32 [B, (T)].

        Each invalid UTF-8 sequence counts as U+FFFD. Added tokens written in the text are recognised.
        """
        ids: tf.RaggedTensor = self._tokenize(text)
        return ids

    def _tokenized(self, text: tf.Tensor) -> tf.RaggedTensor:
        """`tokenize`, once in the graph for all who call it."""
        valid = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        pieces = self._splitter.pieces(valid)
        words = self._splitter.words(pieces)
        distinct, index = tf.unique(words.text)
        ids = tf.gather(self._merger.encode(distinct), index)
        return self._with_bos(_assemble(pieces, words.piece, ids, tf.size(text, tf.int64)))

    def detokenize(self, token_ids: tf.RaggedTensor, *, special: bool) -> tf.Tensor:
        """The text of each row of ids: int32 [B, (T)] -> string [B].

        Special tokens stand as their text, or are dropped with `special=False`. Bytes that are no UTF-8
        become U+FFFD. Ids of the vocabulary that the tokenizer does not have stand for nothing.

        Raises:
            tf.errors.InvalidArgumentError: an id is not in [0, vocabulary_size).
        """
        return self._detokenize(token_ids, tf.constant(special))

    def _detokenized(self, token_ids: tf.RaggedTensor, special: tf.Tensor) -> tf.Tensor:
        """`detokenize`, once in the graph for all who call it."""
        ids = token_ids.values
        in_range = tf.debugging.Assert(
            tf.reduce_all((ids >= 0) & (ids < self._vocabulary_size)),
            [
                f"token ids must be from 0 to {self._vocabulary_size - 1}; there are",
                tf.reduce_min(ids),
                "to",
                tf.reduce_max(ids),
            ],
        )
        with tf.control_dependencies([in_range]):
            ids = tf.identity(ids)
        dropped = tf.gather(self._is_special, ids) & ~special
        tokens = tf.where(dropped, "", tf.gather(self._tokens, ids))
        joined = tf.strings.reduce_join(token_ids.with_values(tokens), axis=-1)
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")

    def _with_bos(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        if self._bos_token_id is None:
            return ids
        bos = tf.fill([ids.nrows(), 1], self._bos_token_id)
        return tf.concat([tf.RaggedTensor.from_tensor(bos, row_splits_dtype=tf.int64), ids], axis=1)


def _assemble(
    pieces: Pieces, piece_of_word: tf.Tensor, ids: tf.RaggedTensor, rows: tf.Tensor
) -> tf.RaggedTensor:
    """Ids of words [W, (T)] and tokens among the pieces, in the order of the texts: int32 [rows, (T)]."""
    count = tf.size(pieces.token, tf.int64)
    of_words = tf.RaggedTensor.from_value_rowids(
        ids.values, tf.gather(piece_of_word, ids.value_rowids()), count, validate=False
    )
    is_token = pieces.token >= 0
    of_tokens = tf.RaggedTensor.from_value_rowids(
        tf.boolean_mask(pieces.token, is_token), tf.where(is_token)[:, 0], count, validate=False
    )
    of_pieces = tf.concat([of_tokens, of_words], axis=1)
    row = tf.gather(pieces.row, of_pieces.value_rowids())
    return tf.RaggedTensor.from_value_rowids(of_pieces.values, row, rows, validate=False)
