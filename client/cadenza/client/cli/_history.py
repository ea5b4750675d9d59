"""The questions of earlier conversations, for the arrow keys: a bounded file that only its owner reads."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_MOST_LINES: Final = 1000


def history_file(environment: Mapping[str, str]) -> Path:
    """Where the XDG base directory specification wants it: in $XDG_STATE_HOME or ~/.local/state."""
    state = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "cadenza" / "chat_history"


def load(file: Path | None) -> None:
    """Gives input() line editing where this Python has it, and the questions in the file, if any."""
    with contextlib.suppress(ImportError, OSError):
        import readline

        readline.set_history_length(_MOST_LINES)
        if file is not None:
            readline.read_history_file(file)


def save(file: Path | None) -> None:
    """Keeps the questions. A file that cannot be written is no reason to fail: the conversation is over."""
    with contextlib.suppress(ImportError, OSError):
        import readline

        if file is not None:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.write_history_file(file)
