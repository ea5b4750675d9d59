"""`cadenza chat`: one question, or a conversation of many turns on a terminal.

Ctrl-C ends the answer that is being written, not the program; Ctrl-D leaves.
"""

import argparse
import contextlib
import sys

from cadenza.client._client import Client
from cadenza.client._options import CompletionOptions
from cadenza.client._prompt import Message
from cadenza.client.cli._commands import connect, sampling_options
from cadenza.client.cli._terminal import DIM, read_stdin, report, styled, write_pieces
from cadenza.client.errors import CadenzaError


def chat(args: argparse.Namespace) -> int:
    """Answers the question of the arguments or of stdin; converses where neither has one."""
    history = [Message("system", args.system)] if args.system else []
    options = sampling_options(args)
    with connect(args) as client:
        if not args.question and sys.stdin.isatty():
            _converse(client, history, options)
        else:
            question = read_stdin() if args.question in (None, "-") else args.question
            with client.stream_chat([*history, Message("user", question)], **options) as stream:
                write_pieces(stream.text())
    return 0


def _converse(client: Client, history: list[Message], options: CompletionOptions) -> None:
    """Reads and answers until end of file; a turn without any answer is forgotten."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() line editing
    while True:
        try:
            question = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if not question.strip():
            continue
        asked = Message("user", question)
        answer = _answer(client, [*history, asked], options)
        if answer:
            history += [asked, Message("assistant", answer)]


def _answer(client: Client, messages: list[Message], options: CompletionOptions) -> str:
    """Shows the answer as it comes and gives what was shown, be it cut short by Ctrl-C or an error."""
    pieces: list[str] = []
    try:
        with client.stream_chat(messages, **options) as stream:
            for piece in stream.text():
                pieces.append(piece)
                print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        print(styled(" [cancelled]", DIM, sys.stdout))
    except CadenzaError as error:
        print()
        report(error)
    return "".join(pieces)
