"""What the command writes: text as it comes, error lines, colours."""

import os
import sys
from collections.abc import AsyncIterator
from typing import TextIO

from cadenza.client.errors import CadenzaError, InternalError

BOLD, DIM, RED = "1", "2", "31"


def styled(text: str, style: str, stream: TextIO) -> str:
    """The text in a style where `stream` is a terminal and NO_COLOR is not set; plain elsewhere."""
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{style}m{text}\x1b[0m"


def report(error: CadenzaError) -> None:
    """One line on stderr: `cadenza: REASON: message`, with the id of a call in which the server failed."""
    request = f" (request {error.request_id})" if isinstance(error, InternalError) else ""
    line = f"cadenza: {error.reason}: {' '.join(error.message.split())}{request}"
    print(styled(line, RED, sys.stderr), file=sys.stderr)


async def write_pieces(pieces: AsyncIterator[str]) -> None:
    """Shows each piece at once, and ends the line."""
    async for piece in pieces:
        print(piece, end="", flush=True)
    print()
