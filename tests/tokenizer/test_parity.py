"""The graph gives the token ids and the texts of `tokenizers`, for every family's rules and any text."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.corpus import any_character, long_texts, random_texts
from tests.tokenizer.graphs import Pair, differences, family
from tests.tokenizer.rules import FAMILIES

REAL = ("gpt2", "smollm2")
OTHERS = tuple(name for name in FAMILIES if name not in REAL)


@pytest.mark.parametrize("name", REAL)
def test_ids_and_round_trips_of_100_000_random_texts_are_exact(name: str) -> None:
    tested = family(name)
    texts = list(random_texts(100_000, seed=1, tokens=tested.added_tokens))
    assert differences(tested, texts)[:3] == []
    for begin in range(0, len(texts), 10_000):
        batch = texts[begin : begin + 10_000]
        assert tested.detokenize(tested.tokenize(batch), True) == [known(tested, text) for text in batch]


@pytest.mark.parametrize("name", OTHERS)
def test_ids_of_random_texts_are_those_of_tokenizers(name: str) -> None:
    tested = family(name)
    assert differences(tested, list(random_texts(5_000, seed=2, tokens=tested.added_tokens)))[:3] == []


@pytest.mark.parametrize("name", list(FAMILIES))
def test_ids_of_long_texts_are_those_of_tokenizers(name: str) -> None:
    tested = family(name)
    assert differences(tested, list(long_texts(4, 2_000, seed=3, tokens=tested.added_tokens))) == []


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen2"])
@pytest.mark.parametrize(
    "alphabet", [(0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x61, 0x7A), (0x61, 0x62), (0x2D, 0x2D)]
)
def test_ids_of_long_words_are_those_of_tokenizers(name: str, alphabet: tuple[int, int]) -> None:
    chance = random.Random(4)
    words = ["".join(chr(chance.randint(*alphabet)) for _ in range(length)) for length in (120, 400, 3_000)]
    assert differences(family(name), words) == []


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen2", "strange_tokens"])
def test_ids_of_any_text_are_those_of_tokenizers(name: str, text: str) -> None:
    assert differences(family(name), [text]) == []


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "pythia"])
def test_invalid_utf8_counts_as_replacement_characters(name: str) -> None:
    chance = random.Random(5)
    tested, texts = family(name), [random_bytes(chance) for _ in range(2_000)]
    assert tested.ids(texts) == tested.expected([text.decode(errors="replace") for text in texts])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "smollm2", "llama3", "strange_tokens"])
def test_texts_of_random_ids_are_those_of_tokenizers(name: str, special: bool) -> None:
    tested, random_ids = family(name), np.random.default_rng(6)
    known_ids = np.array(sorted(tested.compiled.token_bytes))
    one_byte = tested.compiled.byte_ids[tested.compiled.byte_ids >= 0]
    rows = [[int(token_id)] for token_id in known_ids]
    for pool in (known_ids, one_byte, one_byte[-60:], known_ids[-40:]):
        rows += [random_ids.choice(pool, random_ids.integers(0, 12)).tolist() for _ in range(2_000)]
    expected = tested.reference.decode_batch(rows, skip_special_tokens=not special)
    assert (
        tested.detokenize(tf.ragged.constant(rows, tf.int32, row_splits_dtype=tf.int64), special) == expected
    )


def known(tested: Pair, text: str) -> str:
    """The text without the bytes that the vocabulary lacks (SmolLM2's lacks some): no id stands for them."""
    missing = bytes(np.flatnonzero(tested.compiled.byte_ids < 0).tolist())
    return text.encode().translate(None, missing).decode(errors="replace")


def random_bytes(chance: random.Random) -> bytes:
    """Bytes near to UTF-8: characters cut short, overlong forms, surrogates, bytes that it never has."""
    parts: list[Callable[[], bytes]] = [
        lambda: any_character(chance).encode()[: chance.randint(0, 4)],
        lambda: bytes([chance.randrange(0x80, 0x100)]),
        lambda: chance.choice(
            [b"\xed\xa0\x80", b"\xc0\xaf", b"\xe0\x80\x80", b"\xf4\x90\x80\x80", b"\xf8\x88"]
        ),
        lambda: b"ab c",
    ]
    return b"".join(chance.choice(parts)() for _ in range(chance.randint(0, 8)))
