"""The text of a prompt or a question, from where people have it: the argument, files, stdin."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from cadenza.client._options import refused

_MOST_CHARACTERS: Final = 16 * 1024 * 1024
"""Far more than any model reads, far less than any machine has."""


def text_from(argument: str | None, files: Sequence[str]) -> str:
    """The files' texts and the argument, an empty line between them; stdin where there is none, and for "-".

    Raises InvalidOption where a source cannot be read or there is none at all.
    """
    sources = [_file(name) for name in files]
    if argument not in (None, "-"):
        sources.append(str(argument))
    elif argument == "-" or not files:
        if argument is None and sys.stdin.isatty():
            raise refused("text", "there is none: give it as the argument, with --file, or on stdin")
        sources.append(_file("-"))
    return "\n\n".join(sources)


def _file(name: str) -> str:
    """All of a file, or of stdin for "-", but a last line feed."""
    source = "stdin" if name == "-" else name
    try:
        with _opened(name) as stream:
            text = stream.read(_MOST_CHARACTERS + 1)
    except OSError as error:
        raise refused("file", f"{source} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        why = f"{error.reason} at byte {error.start}; convert it first"
        raise refused("text", f"{source} is not {error.encoding} text: {why}") from None
    if len(text) > _MOST_CHARACTERS:
        raise refused("text", f"{source} has more than {_MOST_CHARACTERS:,} characters; give a part of it")
    return text.removesuffix("\n")


@contextlib.contextmanager
def _opened(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdin
        return
    with Path(name).open(encoding="utf-8") as file:
        yield file
