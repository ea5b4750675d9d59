"""Unicode's normalization form C (UAX 15) in TensorFlow operations, from probed tables.

Most texts are in form C already: one regular expression sees that. The others are decomposed by table, their
combining characters are sorted by class, and pairs are composed: in each round the first composition of every
segment (a starter that composes with nothing before it, and what follows it), until there is none.
"""

import tensorflow as tf

from cadenza.export.text.nfc import NfcTables
from cadenza.export.text.regex import class_of
from cadenza.export.text.unicode import LAST_CODE_POINT

_PAGE = 128
_NOTHING = -1
_BASE = LAST_CODE_POINT + 1


class Composer(tf.Module):
    """Brings texts into form C."""

    def __init__(self, tables: NfcTables) -> None:
        super().__init__()
        self._changing = f"(?s:.*){class_of(tables.changing)}(?s:.*)"
        parts = [(), *tables.decompositions.values()]
        self._parts = tf.constant([part for points in parts for part in points], tf.int32)
        self._lengths = tf.constant([1, *map(len, parts[1:])], tf.int32)
        self._starts = tf.cumsum(tf.constant([*map(len, parts)], tf.int32), exclusive=True)
        self._entries = _PagedTable({point: index for index, point in enumerate(tables.decompositions, 1)})
        self._classes = _PagedTable(tables.classes)
        self._seconds = _PagedTable(dict.fromkeys(tables.seconds, 1))
        keys = tables.pairs[:, 0].astype("int64") * _BASE + tables.pairs[:, 1]
        self._composites = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, tables.composites), default_value=_NOTHING
        )

    def compose(self, texts: tf.Tensor) -> tf.Tensor:
        """string [P] -> string [P]."""
        changing = tf.strings.regex_full_match(texts, self._changing)
        return tf.cond(
            tf.reduce_any(changing),
            lambda: tf.tensor_scatter_nd_update(
                texts, tf.where(changing), self._slowly(tf.boolean_mask(texts, changing))
            ),
            lambda: texts,
        )

    def _slowly(self, texts: tf.Tensor) -> tf.Tensor:
        decoded = tf.strings.unicode_decode(texts, "UTF-8")
        points, row = self._decompose(decoded.values, decoded.value_rowids())
        classes = self._classes.lookup(points)
        order = _canonical_order(classes, row)
        points, row = self._pairwise(tf.gather(points, order), tf.gather(classes, order), row)
        rows = tf.RaggedTensor.from_value_rowids(points, row, tf.size(texts, tf.int64), validate=False)
        return tf.strings.unicode_encode(rows, "UTF-8")

    def _decompose(self, points: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        entry = self._entries.lookup(points)
        lengths = tf.gather(self._lengths, entry)
        source = tf.repeat(tf.range(tf.size(points)), lengths)
        offset = tf.range(tf.size(source)) - tf.gather(tf.cumsum(lengths, exclusive=True), source)
        entry = tf.gather(entry, source)
        part = tf.where(entry > 0, tf.gather(self._starts, entry) + offset, 0)
        points = tf.where(entry > 0, tf.gather(self._parts, part), tf.gather(points, source))
        return points, tf.gather(row, source)

    def _pairwise(self, points: tf.Tensor, classes: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        fixed = (classes == 0) & (self._seconds.lookup(points) == 0)
        segment = tf.cumsum(tf.cast(fixed | _begins(row), tf.int32)) - 1
        count = tf.reduce_max(tf.concat([[-1], segment], 0)) + 1

        def some(_points: tf.Tensor, *rest: tf.Tensor) -> tf.Tensor:
            return rest[-1]

        def round_(points, classes, row, segment, untried, _some):  # type: ignore[no-untyped-def]
            starter, composite = self._candidates(points, classes, segment, untried)
            place = tf.boolean_mask(tf.range(tf.size(points)), composite >= 0)
            place = tf.boolean_mask(place, _begins(tf.gather(segment, place)))
            points = tf.tensor_scatter_nd_update(
                points, tf.gather(starter, place)[:, None], tf.gather(composite, place)
            )
            tried_to = tf.tensor_scatter_nd_update(
                tf.fill([count], -1), tf.gather(segment, place)[:, None], place
            )
            untried = tf.range(tf.size(points)) > tf.gather(tried_to, segment)
            kept = tf.tensor_scatter_nd_update(
                tf.ones_like(untried), place[:, None], tf.zeros_like(place, tf.bool)
            )
            state = (points, classes, row, segment, untried)
            return (*(tf.boolean_mask(part, kept) for part in state), tf.size(place) > 0)

        flat = tf.TensorShape([None])
        state = (points, classes, row, segment, tf.ones_like(fixed), tf.constant(True))
        result = tf.while_loop(some, round_, state, (flat, flat, flat, flat, flat, tf.TensorShape([])))
        return result[0], result[2]

    def _candidates(
        self, points: tf.Tensor, classes: tf.Tensor, segment: tf.Tensor, untried: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The starter before each character, and what the two compose to, -1 where they do not."""
        place = tf.range(tf.size(points))
        is_starter = classes == 0
        places = tf.concat([[0], tf.boolean_mask(place, is_starter)], 0)
        starter = tf.gather(places, tf.cumsum(tf.cast(is_starter, tf.int32), exclusive=True))
        previous = tf.maximum(place - 1, 0)
        blocked = (previous != starter) & (tf.gather(classes, previous) >= classes)
        same = (tf.gather(segment, starter) == segment) & tf.gather(is_starter, starter) & (starter < place)
        first = tf.cast(tf.gather(points, starter), tf.int64)
        key = tf.where(same & ~blocked & untried, first * _BASE + tf.cast(points, tf.int64), -1)
        return starter, self._composites.lookup(key)


class _PagedTable(tf.Module):
    """Numbers of a few code points; 0 for all others. Equal pages are kept once."""

    def __init__(self, numbers: dict[int, int]) -> None:
        super().__init__()
        pages: dict[tuple[int, ...], int] = {(0,) * _PAGE: 0}
        used = {point // _PAGE for point in numbers}
        index = [0] * (LAST_CODE_POINT // _PAGE + 1)
        for page in sorted(used):
            content = tuple(numbers.get(page * _PAGE + offset, 0) for offset in range(_PAGE))
            index[page] = pages.setdefault(content, len(pages))
        self._index = tf.constant(index, tf.int32)
        self._pages = tf.constant([number for page in pages for number in page], tf.int32)

    def lookup(self, points: tf.Tensor) -> tf.Tensor:
        page = tf.gather(self._index, points // _PAGE)
        return tf.gather(self._pages, page * _PAGE + points % _PAGE)


def _begins(group: tf.Tensor) -> tf.Tensor:
    """Whether each element is the first of its group of equal neighbours."""
    return tf.concat([tf.ones_like(group[:1], tf.bool), group[1:] != group[:-1]], 0)


def _canonical_order(classes: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    """Combining characters after each starter by class, equal classes in their order."""
    run = tf.cumsum(tf.cast((classes == 0) | _begins(row), tf.int64))
    count = tf.size(classes, tf.int64)
    place = tf.range(count)
    return tf.argsort((run * 256 + tf.cast(classes, tf.int64)) * count + place)
