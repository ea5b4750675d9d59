"""Text that is safe to show: whole characters, and nothing of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadenza.server.engine.text import StopMatcher, TextAssembler

PIECES = st.lists(st.text(alphabet="ab<é", max_size=4), max_size=12)
STOPS = st.lists(st.text(alphabet="ab<é", min_size=1, max_size=4), min_size=1, max_size=3)


def shown_before_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """What a reader may see of a text that arrives character by character."""
    for end in range(1, len(text) + 1):
        starts = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(PIECES, STOPS)
def test_text_before_the_stop_string_is_shown_whatever_the_pieces(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for character in "".join(pieces):
        shown += matcher.feed(character)
        if matcher.matched:
            break
    else:
        shown += matcher.flush()
    assert (shown, matcher.matched) == shown_before_stop("".join(pieces), stops)


@given(PIECES, STOPS)
def test_nothing_shown_has_to_be_taken_back(pieces: list[str], stops: list[str]) -> None:
    matcher, shown = StopMatcher(stops), ""
    for piece in pieces:
        shown += matcher.feed(piece)
        assert not any(stop in shown for stop in stops)
        if matcher.matched:
            break


@given(st.text())
def test_single_bytes_add_up_to_whole_characters(text: str) -> None:
    assembler = TextAssembler([bytes([value]) for value in range(256)], [])
    parts = [assembler.append(value) for value in text.encode()]
    assert [part for part in parts if part] == list(text)
    assert assembler.flush() == ""


def test_half_a_character_at_the_end_becomes_one_replacement_character() -> None:
    assembler = TextAssembler(["€".encode()[:2]], [])
    assert assembler.append(0) == ""
    assert assembler.flush() == "\ufffd"


@pytest.mark.parametrize(
    ("tokens", "stops", "shown"),
    [
        (["Hello", " wor", "ld"], ["world"], "Hello "),
        (["a", "b", "c"], ["abd"], "abc"),
        (["one\n", "\ntwo"], ["\n\n"], "one"),
        (["ab", "ab", "c"], ["abc"], "ab"),
        (["xyz"], ["z", "xy"], ""),
    ],
)
def test_stop_strings_are_found_across_tokens(tokens: list[str], stops: list[str], shown: str) -> None:
    assembler = TextAssembler([token.encode() for token in tokens], stops)
    text = ""
    for token_id in range(len(tokens)):
        text += assembler.append(token_id)
        if assembler.stopped:
            break
    assert text + assembler.flush() == shown
