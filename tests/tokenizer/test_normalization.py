"""Form C in the graph against the normalizer of `tokenizers`."""

import random

import tensorflow as tf
from tokenizers import normalizers

from cadenza.export.text.composition import Composer
from cadenza.export.text.nfc import nfc_tables
from cadenza.export.text.unicode import code_points

NFC = normalizers.NFC()


def composed(texts: list[str]) -> list[str]:
    composer = Composer(nfc_tables())
    compose = tf.function(composer.compose, input_signature=[tf.TensorSpec([None], tf.string)])
    return [text.decode() for text in compose(tf.constant(texts, tf.string)).numpy()]


def test_every_character_is_composed_as_by_tokenizers() -> None:
    texts = [before + chr(point) + "\u0301\u0327" for point in code_points()[::3] for before in ("", "e")]
    assert composed(texts) == [NFC.normalize_str(text) for text in texts]


def test_random_sequences_of_characters_that_compose_are_composed_as_by_tokenizers() -> None:
    chance, tables = random.Random(7), nfc_tables()
    firsts = [pair[0] for pair in tables.pairs.tolist()]
    pools = [list(tables.classes), list(tables.seconds), list(tables.decompositions), firsts, [0x61, 0x20]]
    texts = [
        "".join(chr(chance.choice(chance.choice(pools))) for _ in range(chance.randint(0, 9)))
        for _ in range(30_000)
    ]
    assert composed(texts) == [NFC.normalize_str(text) for text in texts]


def test_batches_without_texts_or_with_empty_ones_stay() -> None:
    assert composed([]) == []
    assert composed(["", "e\u0301", ""]) == ["", "\u00e9", ""]
