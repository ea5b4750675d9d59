"""The `cadenza` command: completions, conversations, models and health of a server from a shell."""

from cadenza.client.cli._main import main

__all__ = ["main"]
