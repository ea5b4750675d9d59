"""The text of a prompt or a question, from where people have it: the argument, files, stdin."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cadenza.client._options import refused


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
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise refused("file", f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        source = "stdin" if name == "-" else name
        raise refused(
            "text",
            f"{source} is not {error.encoding} text: {error.reason} at byte {error.start}; convert it first",
        ) from None
    return text.removesuffix("\n")
