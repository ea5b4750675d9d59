"""`cadenza chat`: one question, or a conversation of many turns on a terminal.

Ctrl-C ends the answer that is being written, not the program; Ctrl-D leaves; /clear starts over.
"""

import argparse
import asyncio
import os
import sys

from cadenza.client._async_client import AsyncClient
from cadenza.client._options import CompletionOptions
from cadenza.client._prompt import Message
from cadenza.client.cli import _history
from cadenza.client.cli._commands import sampling_options
from cadenza.client.cli._connect import connect
from cadenza.client.cli._run import run, run_on
from cadenza.client.cli._terminal import DIM, report, styled, write_pieces
from cadenza.client.cli._text import text_from
from cadenza.client.errors import CadenzaError

_HELP = "Ctrl-C ends an answer, Ctrl-D leaves, /clear starts over."


def chat(args: argparse.Namespace) -> int:
    """Answers the question of the arguments, files or stdin; converses where there is none."""
    beginning = [Message("system", args.system)] if args.system else []
    if args.question is None and not args.files and sys.stdin.isatty():
        file = None if args.no_history else _history.history_file(os.environ)
        _history.load(file)
        print(styled(_HELP, DIM, sys.stderr), file=sys.stderr)
        with asyncio.Runner() as runner:
            _converse(runner, args, beginning)
        _history.save(file)
    else:
        question = text_from(args.question, args.files)
        run(_ask_once(args, [*beginning, Message("user", question)]))
    return 0


async def _ask_once(args: argparse.Namespace, messages: list[Message]) -> None:
    async with connect(args) as client, client.stream_chat(messages, **sampling_options(args)) as stream:
        await write_pieces(stream.text())


def _converse(runner: asyncio.Runner, args: argparse.Namespace, beginning: list[Message]) -> None:
    """Reads and answers until end of file; a turn without any answer is forgotten."""
    client = runner.run(_connected(args))
    options = sampling_options(args)
    history = list(beginning)
    while (question := _read_question()) is not None:
        if question.strip() == "/clear":
            history = list(beginning)
        elif question.strip():
            asked = Message("user", question)
            answer = _answer(runner, client, [*history, asked], options)
            if answer:
                history += [asked, Message("assistant", answer)]
    runner.run(client.close())


def _read_question() -> str | None:
    """A line, empty where Ctrl-C ended it; None at end of file."""
    try:
        return input("> ")
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        return ""


async def _connected(args: argparse.Namespace) -> AsyncClient:
    return connect(args)


def _answer(
    runner: asyncio.Runner, client: AsyncClient, messages: list[Message], options: CompletionOptions
) -> str:
    """Shows the answer as it comes and gives what was shown, be it cut short by Ctrl-C or an error."""
    shown: list[str] = []
    try:
        run_on(runner, _show(client, messages, options, shown))
        print()
    except KeyboardInterrupt:
        print(styled(" [cancelled]", DIM, sys.stdout))
    except CadenzaError as error:
        print()
        report(error)
    return "".join(shown)


async def _show(
    client: AsyncClient, messages: list[Message], options: CompletionOptions, shown: list[str]
) -> None:
    async with client.stream_chat(messages, **options) as stream:
        async for piece in stream.text():
            shown.append(piece)
            print(piece, end="", flush=True)
