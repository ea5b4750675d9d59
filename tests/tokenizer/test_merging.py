"""Merging against `tokenizers`, with random merge tables, on words long and short of few letters."""

import random

import pytest
from tests.tokenizer.graphs import differences, pair
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def random_tokenizer(seed: int) -> Tokenizer:
    """Merges drawn at random, each of tokens there already, over two or three letters."""
    chance = random.Random(seed)
    tokens = list("abc"[: chance.randint(2, 3)])
    merges: list[tuple[str, str]] = []
    while len(merges) < chance.choice([5, 40, 150]):
        left, right = chance.choice(tokens), chance.choice(tokens[-12:])
        if left + right not in tokens and len(left + right) < 30:
            merges.append((left, right))
            tokens.append(left + right)
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(tokens))
    vocabulary = {token: index for index, token in enumerate([*alphabet, *tokens])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize("seed", range(8))
def test_words_of_random_letters_merge_as_in_tokenizers(seed: int) -> None:
    chance = random.Random(seed)
    texts = []
    for length in [*range(1, 40), 127, 128, 129, 130, 200, 300, 500, 800, 1_500]:
        texts.append("".join(chance.choice("abc") for _ in range(length)))
        texts.append("".join(chance.choice(["a", "aa", "ab", "aaab"]) for _ in range(length)))
    texts += ["a" * length for length in range(1, 300, 7)]
    texts += [" ".join(texts[begin::5]) for begin in range(5)]
    assert differences(pair(random_tokenizer(seed)), texts) == []
