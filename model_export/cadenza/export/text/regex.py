"""Pre-tokenization patterns, written for Oniguruma, translated to RE2.

RE2 has neither Oniguruma's classes (its Unicode version differs) nor lookahead. Classes become explicit
ranges. The one lookahead that is accepted is the tail that GPT-2 and its successors share,
`\\s+(?!\\S)|\\s+`: the last character of a run of spaces goes to the word after it. A first pass puts a
separator before that character; then `\\s+` alone is the tail.
"""

import dataclasses
import functools
from collections.abc import Iterator

from cadenza.export.text import unicode
from cadenza.export.text.unicode import Ranges

SEPARATOR = b"\xff"
"""Between pieces of a text: a byte that is never part of UTF-8, so that no RE2 class matches it."""

_MAX_REPEAT = 100
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v"}


class PatternError(Exception):
    """The pattern cannot be translated; the message says which part of it."""


@dataclasses.dataclass(frozen=True)
class Replacement:
    """One pass over a text: every match of `pattern` becomes `rewrite`, both in RE2's syntax."""

    pattern: str
    rewrite: bytes


@dataclasses.dataclass(frozen=True)
class _Class:
    ranges: Ranges


@dataclasses.dataclass(frozen=True)
class _Repeat:
    node: "_Node"
    low: int
    high: int | None


@dataclasses.dataclass(frozen=True)
class _Sequence:
    items: "tuple[_Node, ...]"


@dataclasses.dataclass(frozen=True)
class _Choice:
    items: "tuple[_Node, ...]"


@dataclasses.dataclass(frozen=True)
class _NotFollowedBy:
    node: "_Node"


_Node = _Class | _Repeat | _Sequence | _Choice | _NotFollowedBy


def split_by(pattern: str) -> tuple[Replacement, ...]:
    """Passes that put separators around every match of the pattern.

    Raises:
        PatternError: the pattern is not one that can be translated exactly.
    """
    root = _Parser(pattern).parse()
    alternatives = root.items if isinstance(root, _Choice) else (root,)
    if any(_shortest(alternative) == 0 for alternative in alternatives):
        raise PatternError("an alternative matches the empty text")
    first_pass: tuple[Replacement, ...] = ()
    if any(_looks_ahead(alternative) for alternative in alternatives):
        alternatives, held_back = _without_tail(alternatives)
        space, other = unicode.matching(r"\s"), unicode.complement(unicode.matching(r"\s"))
        held = f"({_class(space)})({_class(held_back)}{_class(other)})"
        first_pass = (Replacement(held, rb"\1" + SEPARATOR + rb"\2"),)
    return (*first_pass, around("|".join(map(_write, alternatives))))


def around(pattern: str) -> Replacement:
    """Separators before and after every match of an RE2 pattern."""
    return Replacement(pattern, SEPARATOR + rb"\0" + SEPARATOR)


def class_of(ranges: Ranges) -> str:
    """The set as an RE2 class."""
    return _class(ranges)


def _without_tail(alternatives: tuple[_Node, ...]) -> tuple[tuple[_Node, ...], Ranges]:
    """The alternatives without the lookahead, and which spaces the word after a run takes from it.

    A run of two or more spaces before another character leaves its last one to what follows. Where a line's
    end has an alternative of its own before the tail (`\\s*[\\r\\n]+`), a last space that ends a line stays.
    That a separator there changes nothing else needs: no other alternative matches across it.
    """
    space = _Class(unicode.matching(r"\s"))
    spaces = _Repeat(space, 1, None)
    look = _Sequence((spaces, _NotFollowedBy(_Class(unicode.complement(space.ranges)))))
    if alternatives[-2:] != (look, spaces):
        raise PatternError(r"a lookahead is supported only as the end of the pattern, '\s+(?!\S)|\s+'")
    heads = alternatives[:-2]
    line_ends: Ranges = ()
    if heads and (ends := _line_ends(heads[-1], space)):
        line_ends, heads = ends, heads[:-1]
    held_back = unicode.intersection(space.ranges, unicode.complement(line_ends))
    for head in heads:
        if _takes_spaces(head, held_back):
            raise PatternError("an alternative takes more than one leading space, beside a lookahead")
    return (*alternatives[:-2], spaces), held_back


def _line_ends(node: _Node, space: _Class) -> Ranges:
    """The set of N in `\\s*[N]+`; nothing for any other form."""
    match node:
        case _Sequence((_Repeat(first, 0, None), _Repeat(_Class(ends), 1, None) | _Class(ends))):
            inside = unicode.intersection(ends, space.ranges) == ends
            return ends if first == space and inside else ()
    return ()


def _takes_spaces(head: _Node, held_back: Ranges) -> bool:
    """Whether a match may hold one of these spaces anywhere but as its first character."""
    items = head.items if isinstance(head, _Sequence) else (head,)
    first = items[0]
    if isinstance(first, _Repeat) and first.high == 1:
        first = first.node
    rest = items[1:] if isinstance(first, _Class) else items
    return any(unicode.intersection(part, held_back) for item in rest for part in _classes(item))


def _classes(node: _Node) -> Iterator[Ranges]:
    match node:
        case _Class(ranges):
            yield ranges
        case _Repeat(inner) | _NotFollowedBy(inner):
            yield from _classes(inner)
        case _Sequence(items) | _Choice(items):
            for item in items:
                yield from _classes(item)


def _looks_ahead(node: _Node) -> bool:
    match node:
        case _NotFollowedBy():
            return True
        case _Repeat(inner):
            return _looks_ahead(inner)
        case _Sequence(items) | _Choice(items):
            return any(map(_looks_ahead, items))
    return False


def _shortest(node: _Node) -> int:
    match node:
        case _Class():
            return 1
        case _Repeat(inner, low):
            return low * _shortest(inner)
        case _Sequence(items):
            return sum(map(_shortest, items))
        case _Choice(items):
            return min(map(_shortest, items))
    return 0


def _write(node: _Node) -> str:
    match node:
        case _Class(ranges):
            return _class(ranges)
        case _Repeat(inner, low, high):
            return f"(?:{_write(inner)}){{{low},{'' if high is None else high}}}"
        case _Sequence(items):
            return "".join(map(_write, items))
        case _Choice(items):
            return f"(?:{'|'.join(map(_write, items))})"
    raise PatternError("a lookahead is not at the end of the pattern")


@functools.cache
def _class(ranges: Ranges) -> str:
    if not ranges:
        raise PatternError("a class holds no character")
    return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges) + "]"


class _Parser:
    """Recursive descent over the part of Oniguruma's syntax that can be translated."""

    def __init__(self, pattern: str) -> None:
        self._rest = pattern
        self._folds = False

    def parse(self) -> _Node:
        node = self._choice()
        if self._rest:
            raise PatternError(f"unexpected {self._rest[:10]!r}")
        return node

    def _choice(self) -> _Node:
        items = [self._sequence()]
        while self._take("|"):
            items.append(self._sequence())
        return items[0] if len(items) == 1 else _Choice(tuple(items))

    def _sequence(self) -> _Node:
        items: list[_Node] = []
        begin = self._rest
        while self._rest and self._rest[0] not in "|)":
            items.append(self._repeated())
        if self._folds:
            _check_folding(begin[: len(begin) - len(self._rest)])
        return items[0] if len(items) == 1 else _Sequence(tuple(items))

    def _repeated(self) -> _Node:
        node = self._atom()
        bounds = self._bounds()
        if bounds is None:
            return node
        if self._folds:
            raise PatternError("a quantifier inside (?i:...) is not supported")
        if self._rest[:1] and self._rest[0] in "?*+{":
            raise PatternError("a possessive, lazy or doubled quantifier is not supported")
        if isinstance(node, _NotFollowedBy):
            raise PatternError("a lookahead cannot be repeated")
        return _Repeat(node, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(mark):
                return bounds
        if not self._take("{"):
            return None
        text, _, self._rest = self._rest.partition("}")
        low, comma, high = text.partition(",")
        if not low.isdecimal() or (high and not high.isdecimal()):
            raise PatternError(f"unexpected '{{{text}}}'")
        least, most = int(low), (int(high) if high else None) if comma else int(low)
        if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
            raise PatternError(f"'{{{text}}}' is out of range; at most {_MAX_REPEAT} repetitions are allowed")
        return least, most

    def _atom(self) -> _Node:
        if self._folds and self._rest[0] == "(":
            raise PatternError("a group inside (?i:...) is not supported")
        if self._take("(?!"):
            return _NotFollowedBy(self._closed())
        if self._take("(?i:"):
            return self._folded()
        if self._take("(?:"):
            return self._closed()
        if self._rest.startswith("(?") or self._rest.startswith("(*"):
            raise PatternError(f"the group '{self._rest[:4]}' is not supported")
        if self._take("("):
            return self._closed()
        if self._take("["):
            return self._set()
        if self._rest[0] in "^$.*+?{":
            raise PatternError(f"'{self._rest[0]}' is not supported there")
        return _Class(self._escape() if self._take("\\") else self._literal(self._next()))

    def _closed(self) -> _Node:
        node = self._choice()
        if not self._take(")"):
            raise PatternError("a parenthesis is not closed")
        return node

    def _folded(self) -> _Node:
        outer, self._folds = self._folds, True
        node = self._closed()
        self._folds = outer
        return node

    def _set(self) -> _Node:
        negated = self._take("^")
        if negated and self._folds:
            raise PatternError("a negated class inside (?i:...) is not supported")
        parts: list[Ranges] = []
        while not self._take("]"):
            if self._rest[:1] == "[" or self._rest[:2] == "&&":
                raise PatternError("a class inside a class is not supported")
            parts.append(self._member())
        ranges = unicode.union(*parts)
        return _Class(unicode.complement(ranges) if negated else ranges)

    def _member(self) -> Ranges:
        low = self._escape() if self._take("\\") else self._literal(self._next())
        if self._rest[:1] != "-" or self._rest[1:2] == "]":
            return low
        self._take("-")
        high = self._escape() if self._take("\\") else self._literal(self._next())
        if self._folds or len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or low[0][0] > high[0][0]:
            raise PatternError("a range in a class must go from one character to a later one")
        return ((low[0][0], high[0][1]),)

    def _escape(self) -> Ranges:
        kind = self._next()
        if kind in "pP":
            name, brace, self._rest = self._rest.partition("}")
            return self._probed(f"\\{kind}{name}{brace}")
        if kind in "sSdDwW":
            positive = self._probed(f"\\{kind.lower()}")
            return positive if kind.islower() else unicode.complement(positive)
        if kind in _ESCAPES:
            return unicode.characters(_ESCAPES[kind])
        if kind.isalnum():
            raise PatternError(f"'\\{kind}' is not supported")
        return unicode.characters(kind)

    def _probed(self, escape: str) -> Ranges:
        if self._folds:
            raise PatternError(f"{escape} inside (?i:...) is not supported")
        try:
            return unicode.matching(escape)
        except ValueError as error:
            raise PatternError(str(error)) from error

    def _literal(self, character: str) -> Ranges:
        if not self._folds:
            return unicode.characters(character)
        if not character.isascii():
            raise PatternError(f"{character!r} inside (?i:...) is not supported")
        return _case_variants(character)

    def _take(self, prefix: str) -> bool:
        if not self._rest.startswith(prefix):
            return False
        self._rest = self._rest[len(prefix) :]
        return True

    def _next(self) -> str:
        if not self._rest:
            raise PatternError("the pattern ends too early")
        character, self._rest = self._rest[0], self._rest[1:]
        return character


def _case_variants(character: str) -> Ranges:
    """What (?i:character) matches, Unicode's variants such as U+017F for s included."""
    if not character.isalpha():
        return unicode.characters(character)
    return unicode.matching_of(f"(?i:{character})", unicode.matching("(?i:[a-z])"))


def _check_folding(text: str) -> None:
    """Refuses letters that fold together into one character, as (?i:ss) also matches U+00DF."""
    for pair in (text[begin : begin + 2] for begin in range(len(text) - 1)):
        if pair.isalpha() and unicode.matching(f"(?i:{pair})"):
            raise PatternError(f"(?i:{pair}) also matches a single character; it is not supported")
