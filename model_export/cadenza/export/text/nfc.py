"""Tables of Unicode's normalization form C (UAX 15), asked of `tokenizers`: its Unicode version counts."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import normalizers

from cadenza.export.errors import TokenizerError
from cadenza.export.text import unicode
from cadenza.export.text.unicode import Ranges

_BELOW_ALL: Final = "\u0334"
"""Its combining class is the lowest, 1."""
_ABOVE_ALL: Final = "\u0345"
"""Its combining class is the highest, 240."""


@dataclasses.dataclass(frozen=True, eq=False)
class NfcTables:
    """What form C needs to know of characters. Those not named are starters that stay as they are."""

    changing: Ranges
    """A text without any of these is in form C already."""
    decompositions: dict[int, tuple[int, ...]]
    """Full canonical decompositions."""
    classes: dict[int, int]
    """Combining characters: numbers from 1 that order as their combining classes do."""
    seconds: frozenset[int]
    """Characters that may compose with one before them."""
    pairs: NDArray[np.int32]
    """[P, 2]; two characters that compose ..."""
    composites: NDArray[np.int32]
    """[P]; ... and what they become."""


@functools.cache
def nfc_tables() -> NfcTables:
    """Probes the normalizers NFC and NFD of `tokenizers`.

    Raises:
        TokenizerError: they do not behave as UAX 15 says.
    """
    text = [chr(point) for point in unicode.code_points() if chr(point) != "\n"]
    decomposed = dict(zip(text, _each(normalizers.NFD(), text), strict=True))
    composed = dict(zip(text, _each(normalizers.NFC(), text), strict=True))
    changed = [character for character in text if decomposed[character] != character]
    pairs = _pairs([character for character in changed if composed[character] == character], decomposed)
    classes = _classes([character for character in text if decomposed[character] == character])
    seconds = frozenset(ord(second) for _, second in pairs)
    changing = [character for character in changed if composed[character] != character]
    return NfcTables(
        changing=unicode.characters([*changing, *map(chr, seconds), *map(chr, classes)]),
        decompositions={ord(character): tuple(map(ord, decomposed[character])) for character in changed},
        classes=classes,
        seconds=seconds,
        pairs=np.array([tuple(map(ord, pair)) for pair in pairs], np.int32).reshape(-1, 2),
        composites=np.array([ord(composite) for composite in pairs.values()], np.int32),
    )


def _pairs(composites: Sequence[str], decomposed: dict[str, str]) -> dict[tuple[str, str], str]:
    """The two characters that make each composite: all of its parts but the last, composed; and the last."""
    firsts = _each(normalizers.NFC(), [decomposed[composite][:-1] for composite in composites])
    pairs = {
        (first, decomposed[composite][-1]): composite
        for first, composite in zip(firsts, composites, strict=True)
    }
    again = _each(normalizers.NFC(), [first + second for first, second in pairs])
    if any(len(first) != 1 for first in firsts) or again != list(pairs.values()):
        raise TokenizerError("the normalizer NFC of tokenizers does not compose pair by pair")
    return pairs


def _classes(text: Sequence[str]) -> dict[int, int]:
    """Combining characters, and the order of their classes, seen in how NFD sorts them."""
    below = _each(normalizers.NFD(), [character + _BELOW_ALL for character in text])
    above = _each(normalizers.NFD(), [_ABOVE_ALL + character for character in text])
    marks = [
        character
        for character, low, high in zip(text, below, above, strict=True)
        if low[0] == _BELOW_ALL != character or high[-1] == _ABOVE_ALL != character
    ]
    groups = _sorted_groups([*dict.fromkeys([*marks, _BELOW_ALL, _ABOVE_ALL])])
    return {ord(mark): number for number, group in enumerate(groups, 1) for mark in group}


def _sorted_groups(marks: Sequence[str]) -> list[list[str]]:
    """Groups of equal class, lowest first, by comparing with a pivot as quicksort does."""
    if not marks:
        return []
    pivot, form = marks[0], normalizers.NFD()
    before = _each(form, [pivot + mark for mark in marks])
    behind = _each(form, [mark + pivot for mark in marks])
    lower: list[str] = []
    equal: list[str] = []
    higher: list[str] = []
    for mark, low, high in zip(marks, before, behind, strict=True):
        is_lower = mark != pivot and not low.startswith(pivot)
        is_higher = mark != pivot and high.startswith(pivot)
        (lower if is_lower else higher if is_higher else equal).append(mark)
    return [*_sorted_groups(lower), equal, *_sorted_groups(higher)]


def _each(form: normalizers.Normalizer, texts: Sequence[str]) -> list[str]:
    """Normalizes many texts in one call; a line's end is a starter that nothing composes with."""
    lines: list[str] = form.normalize_str("\n".join(texts)).split("\n")
    return lines
