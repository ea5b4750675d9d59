"""Sets of code points, as ranges, asked of `tokenizers` itself.

The Unicode version of its regular expressions decides which characters are letters, numbers or spaces; RE2,
which runs in TensorFlow, has another one. So classes are probed here once and written out as ranges.
"""

import functools
from collections.abc import Iterable
from typing import Final

from tokenizers import Regex
from tokenizers import pre_tokenizers as splitters

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint, inclusive ranges of code points."""

LAST_CODE_POINT: Final = 0x10FFFF
_SURROGATES: Final = (0xD800, 0xDFFF)
_ASSIGNED_PLANES: Final = (0, 1, 2, 3, 14)
_SAMPLE_STEP: Final = 257


def union(*sets: Ranges) -> Ranges:
    """Code points that are in any of the sets."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(piece for ranges in sets for piece in ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """Code points that are not in the set."""
    gaps: list[tuple[int, int]] = []
    begin = 0
    for low, high in ranges:
        if begin < low:
            gaps.append((begin, low - 1))
        begin = high + 1
    if begin <= LAST_CODE_POINT:
        gaps.append((begin, LAST_CODE_POINT))
    return tuple(gaps)


def intersection(left: Ranges, right: Ranges) -> Ranges:
    """Code points that are in both sets."""
    return complement(union(complement(left), complement(right)))


def characters(text: Iterable[str]) -> Ranges:
    """The set of the given characters."""
    return union(tuple((ord(character), ord(character)) for character in text))


@functools.cache
def code_points() -> tuple[int, ...]:
    """The code points that are probed one by one, in order.

    Planes 0 to 3 and 14 in full. The other planes hold no characters (private use, or nothing yet): of them
    every 257th code point, and what lies between two of these is taken to be as the one before it.
    """
    points: list[int] = []
    for plane in range(17):
        step = 1 if plane in _ASSIGNED_PLANES else _SAMPLE_STEP
        points += range(plane << 16, (plane + 1) << 16, step)
    return tuple(point for point in points if not _SURROGATES[0] <= point <= _SURROGATES[1])


@functools.cache
def probe_text() -> str:
    """All probed code points as one string."""
    return "".join(map(chr, code_points()))


@functools.cache
def matching(pattern: str) -> Ranges:
    """Code points that the regular expression matches, each alone.

    Raises:
        ValueError: `tokenizers` does not know the expression.
    """
    return _ranges((code_points()[index] for index in _matches(pattern, probe_text())), code_points())


def matching_of(pattern: str, ranges: Ranges) -> Ranges:
    """Those of the given code points that the regular expression matches, each alone."""
    points = [point for low, high in ranges for point in range(low, high + 1)]
    # A line's end between any two, so that no two are matched together.
    found = _matches(pattern, "\n".join(map(chr, points)))
    return characters(chr(points[index // 2]) for index in found)


@functools.cache
def numeric() -> Ranges:
    """What the pre-tokenizer Digits takes for a digit."""
    pieces = splitters.Digits(individual_digits=False).pre_tokenize_str(probe_text())
    # U+0000 is no digit, so every other piece is a run of digits.
    runs = (range(*span) for _, span in pieces[1::2])
    return _ranges((code_points()[index] for run in runs for index in run), code_points())


def _matches(pattern: str, text: str) -> list[int]:
    """Where in the text a single character matches."""
    try:
        splitter = splitters.Split(Regex(pattern), behavior="removed", invert=True)
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"{pattern!r} is no regular expression that tokenizers knows: {error}") from error
    return [begin for _, (begin, end) in splitter.pre_tokenize_str(text) if end - begin == 1]


def _ranges(members: Iterable[int], probed: tuple[int, ...]) -> Ranges:
    """Members of the probed code points as ranges; what was not probed is as the one probed before it."""
    past = dict(zip(probed, (*probed[1:], LAST_CODE_POINT + 1), strict=True))
    return union(tuple((member, past[member] - 1) for member in members))
