"""Seeded random Unicode texts: what pre-tokenization, normalization and merging find hardest, mixed."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

Atom = Callable[[random.Random], str]

SPACES: Final = " \t\n\r\v\f\x1c\x1d\x85\xa0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_NO_SPACES: Final = "\u180e\u200b\u2060\ufeff\x00\x7f\x1a"
_CONTRACTIONS: Final = ("s", "t", "re", "ve", "m", "ll", "d", "\u017f", "\u212a", "l", "x")
_WORDS: Final = (
    "the", "of", "and", "to", "is", "it", "that", "was", "hello", "Hello", "WORLD", "tokenization", "def",
    "self", "antidisestablishmentarianism", "camelCase",
    "__init__", "x1", "straße", "naïve", "Größe", "ångström",
)  # fmt: skip
_EMOJI: Final = ("👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇺🇳", "❤️", "1️⃣", "🦊", "🤷🏻‍♀️")
_SCRIPTS: Final = (
    (0x4E00, 0x9FFF), (0x3041, 0x3096), (0x30A1, 0x30FA), (0xAC00, 0xD7A3), (0x1100, 0x11FF),
    (0x05D0, 0x05EA), (0x0620, 0x064A), (0x0900, 0x097F), (0x0B80, 0x0BFF), (0x0E01, 0x0E5B),
    (0x0400, 0x04FF), (0x0370, 0x03FF), (0x1E00, 0x1FFF), (0x00A1, 0x024F), (0x20000, 0x2A6DF),
    (0x1D100, 0x1D7FF), (0x10000, 0x103FF), (0xF900, 0xFAFF), (0x0F00, 0x0FDA),
)  # fmt: skip
_MARKS: Final = (
    (0x0300, 0x036F), (0x0591, 0x05C7), (0x064B, 0x065F), (0x0E38, 0x0E4E), (0x1AB0, 0x1ABE),
    (0x20D0, 0x20F0), (0x3099, 0x309A), (0x0F71, 0x0F84), (0x09BC, 0x09D7), (0x1D165, 0x1D172),
    (0xFE00, 0xFE0F),
)  # fmt: skip
_DIGITS: Final = "0123456789\u0660\u0663\u06f9\u0966\uff10\uff19²³½\u2167㊿\U0001d7d8\U0001d7e1\u0be7"


def random_texts(count: int, *, seed: int, tokens: Sequence[str] = ()) -> Iterator[str]:
    """Texts of one to twelve parts each; `tokens` are strewn in, some of them cut short."""
    chance = random.Random(seed)
    atoms: list[Atom] = [*_ATOMS, *([_added_token(tokens)] * 2 if tokens else [])]
    for _ in range(count):
        chosen = chance.choices(atoms, k=chance.randint(1, 12))
        yield "".join(atom(chance) for atom in chosen)


def long_texts(count: int, length: int, *, seed: int, tokens: Sequence[str] = ()) -> Iterator[str]:
    """Texts of at least `length` characters, made of the same parts."""
    parts = random_texts(10 * count * length, seed=seed, tokens=tokens)
    for _ in range(count):
        text = ""
        while len(text) < length:
            text += next(parts)
        yield text


def any_character(chance: random.Random) -> str:
    """A code point of any of the 17 planes but the surrogates."""
    point = chance.randrange(0x110000 - 0x800)
    return chr(point if point < 0xD800 else point + 0x800)


def _any_plane(chance: random.Random) -> str:
    return "".join(any_character(chance) for _ in range(chance.randint(1, 4)))


def _basic_plane(chance: random.Random) -> str:
    return chr(chance.choice([chance.randrange(0x20, 0x3000), chance.randrange(0x3000, 0xD800)]))


def _ascii(chance: random.Random) -> str:
    return "".join(chr(chance.randrange(128)) for _ in range(chance.randint(1, 6)))


def _punctuation(chance: random.Random) -> str:
    return "".join(chance.choices("!?.,;:'\"-_/()[]{}<>|=+*&^%$#@~`…—«»、。", k=chance.randint(1, 4)))


def _word(chance: random.Random) -> str:
    return chance.choice(["", " ", "  "]) + chance.choice(_WORDS)


def _letters(chance: random.Random) -> str:
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyzABCXYZ", k=chance.randint(1, 9)))


def _contraction(chance: random.Random) -> str:
    letters = (chance.choice([str.lower, str.upper])(letter) for letter in chance.choice(_CONTRACTIONS))
    before = chance.choice(["", "it", " ", "\n", "9", "'"])
    return before + chance.choice("''''\u2019") + "".join(letters) + chance.choice(["", "a", " ", "'"])


def _spaces(chance: random.Random) -> str:
    pool = chance.choice([" ", " ", "\n", " \n", "\r\n", " \t\n\r", SPACES, SPACES + _NO_SPACES])
    return "".join(chance.choices(pool, k=chance.randint(1, 5)))


def _digits(chance: random.Random) -> str:
    pool = chance.choice(["0123456789", "0123456789", _DIGITS])
    return "".join(chance.choices(pool, k=chance.randint(1, 7)))


def _script(chance: random.Random) -> str:
    low, high = chance.choice(_SCRIPTS)
    return "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 6)))


def _marked(chance: random.Random) -> str:
    base = chance.choice(["a", "e", "o", "A", "ω", "か", "क", "\u1100\u1161", "각", "ế", "", " "])
    return base + "".join(
        chr(chance.randint(*chance.choice(_MARKS[:1] * 5 + _MARKS))) for _ in range(chance.randint(1, 4))
    )


def _emoji(chance: random.Random) -> str:
    return chance.choice(_EMOJI) * chance.choice([1, 1, 3])


def _run(chance: random.Random) -> str:
    pool = chance.choice(["a", "=", "-", " ", "\n", "ab", "😀", "あ", "0", "ha", "é"])
    return pool * chance.randint(2, 40)


_ATOMS: Final[tuple[Atom, ...]] = (
    _any_plane, _basic_plane, _ascii, _punctuation, _word, _word, _letters, _contraction, _spaces, _spaces,
    _digits, _script, _marked, _emoji, _run,
)  # fmt: skip


def _added_token(tokens: Sequence[str]) -> Atom:
    def atom(chance: random.Random) -> str:
        token = chance.choice(tokens)
        return token if chance.random() < 0.8 else token[: chance.randint(0, len(token))]

    return atom
