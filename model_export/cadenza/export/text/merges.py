"""Byte-pair merging of many words at once, on flat vectors, in TensorFlow operations.

State: the symbols of all words one after another, the word of each, and the rank of the merge that joins each
symbol with the next (`NO_MERGE` where there is none, or where the next is another word's). Each turn merges
every place that the sequential algorithm (best merge of the word first, leftmost first) is certain to merge.

Short words: all places of the word's best merge. Long words, which would need as many turns as they have
different merges: all places whose merge is the best within `reach` symbols on either side. To spoil such a
place, better merges would have to make a token that begins outside of that window and reaches the place,
longer than any token is. Both rely on merges whose parts are made by better merges only; `compile` checks it.
"""

import tensorflow as tf

from cadenza.export.text.compile import CompiledTokenizer

NO_MERGE = 2**31 - 1
_LONG_WORD = 128
"""Bytes; longer words are merged by windows."""


class Merger(tf.Module):
    """The merges of one tokenizer."""

    def __init__(self, compiled: CompiledTokenizer) -> None:
        super().__init__()
        pairs = compiled.merge_pairs.astype("int64")
        self._base = max(compiled.token_bytes) + 1
        self._ranks = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                pairs[:, 0] * self._base + pairs[:, 1], tf.range(len(pairs), dtype=tf.int32)
            ),
            default_value=NO_MERGE,
        )
        self._merged_ids = tf.constant(compiled.merged_ids)
        self._byte_ids = tf.constant(compiled.byte_ids)
        self._reach = compiled.longest_token
        self._whole: tf.lookup.StaticHashTable | None = None
        if compiled.whole_words:
            self._whole = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    list(compiled.whole_words),
                    list(compiled.whole_words.values()),
                    key_dtype=tf.string,
                    value_dtype=tf.int32,
                ),
                default_value=-1,
            )

    def encode(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of each word: string [W] -> int32 [W, (T)]."""
        lengths = tf.strings.length(words)
        count = tf.size(words)
        text = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        ids = tf.gather(self._byte_ids, tf.cast(text, tf.int32))
        word = tf.repeat(tf.range(count), lengths)
        ids, word = self._start(words, ids, word)
        is_long = tf.gather(lengths > _LONG_WORD, word)
        ids, word = tf.cond(
            tf.reduce_any(is_long),
            lambda: self._merge_by_length(ids, word, is_long, count),
            lambda: self._merge_short(ids, word, count),
        )
        return tf.RaggedTensor.from_value_rowids(ids, word, tf.cast(count, word.dtype), validate=False)

    def _start(self, words: tf.Tensor, ids: tf.Tensor, word: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Symbols before merging: no bytes that the vocabulary lacks; a word that is a token is one."""
        keep = ids >= 0
        if self._whole is not None:
            token = tf.gather(self._whole.lookup(words), word)
            is_first = word != tf.concat([[-1], word[:-1]], 0)
            ids = tf.where(token >= 0, token, ids)
            keep = tf.where(token >= 0, is_first, keep)
        return tf.boolean_mask(ids, keep), tf.boolean_mask(word, keep)

    def _merge_by_length(
        self, ids: tf.Tensor, word: tf.Tensor, is_long: tf.Tensor, count: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        short = self._merge_short(tf.boolean_mask(ids, ~is_long), tf.boolean_mask(word, ~is_long), count)
        long = self._merge_long(tf.boolean_mask(ids, is_long), tf.boolean_mask(word, is_long))
        ids, word = (tf.concat(parts, 0) for parts in zip(short, long, strict=True))
        order = tf.argsort(word, stable=True)
        return tf.gather(ids, order), tf.gather(word, order)

    def _merge_short(self, ids: tf.Tensor, word: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def best(ranks: tf.Tensor, word: tf.Tensor) -> tf.Tensor:
            return tf.gather(tf.math.unsorted_segment_min(ranks, word, count), word)

        return self._merge(ids, word, best)

    def _merge_long(self, ids: tf.Tensor, word: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def best(ranks: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            return _windowed_minimum(ranks, self._reach)

        return self._merge(ids, word, best)

    def _merge(self, ids: tf.Tensor, word: tf.Tensor, best) -> tuple[tf.Tensor, tf.Tensor]:  # type: ignore[no-untyped-def]
        def turn(ids: tf.Tensor, word: tf.Tensor, ranks: tf.Tensor) -> tuple[tf.Tensor, ...]:
            taken = _taken(ranks, best(ranks, word))
            ids = tf.where(taken, tf.gather(self._merged_ids, tf.where(taken, ranks, 0)), ids)
            kept = tf.concat([[True], ~taken[:-1]], 0)
            ids, word = tf.boolean_mask(ids, kept), tf.boolean_mask(word, kept)
            return ids, word, self._rank(ids, word)

        def unfinished(_ids: tf.Tensor, _word: tf.Tensor, ranks: tf.Tensor) -> tf.Tensor:
            return tf.reduce_min(ranks) < NO_MERGE

        shape = tf.TensorShape([None])
        ids, word, _ = tf.while_loop(
            unfinished, turn, (ids, word, self._rank(ids, word)), shape_invariants=(shape, shape, shape)
        )
        return ids, word

    def _rank(self, ids: tf.Tensor, word: tf.Tensor) -> tf.Tensor:
        """Rank of the merge of each symbol with the next one: int32 [N]."""
        wide = tf.cast(ids, tf.int64)
        pairs = tf.where(word[:-1] == word[1:], wide[:-1] * self._base + wide[1:], -1)
        return tf.concat([self._ranks.lookup(pairs), tf.fill([tf.minimum(tf.size(ids), 1)], NO_MERGE)], 0)


def _taken(ranks: tf.Tensor, best: tf.Tensor) -> tf.Tensor:
    """Places to merge: those of the best rank, every second one in a run of equal pairs such as in "aaaa".

    In a run only as far as all places from its beginning are of the best rank.
    """
    place = tf.range(tf.size(ranks))
    wanted = (ranks == best) & (ranks < NO_MERGE)
    begins = ranks != tf.concat([[-1], ranks[:-1]], 0)
    begin = _last(begins, place)
    unwanted = _last(~wanted, place)
    return wanted & (unwanted < begin) & ((place - begin) % 2 == 0)


def _last(marked: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """The last marked place up to each place, -1 where there is none."""
    places = tf.concat([[-1], tf.boolean_mask(place, marked)], 0)
    return tf.gather(places, tf.cumsum(tf.cast(marked, tf.int32)))


def _windowed_minimum(values: tf.Tensor, reach: int) -> tf.Tensor:
    """The least of the values from `reach` before to at least `reach` after each place, by doubling."""
    steps = (2 * reach).bit_length()
    least = tf.pad(values, [[reach, (1 << steps) - 1 - reach]], constant_values=NO_MERGE)
    for step in range(steps):
        least = tf.minimum(least[: -(1 << step)], least[1 << step :])
    return least
