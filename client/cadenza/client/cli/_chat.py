"""`cadenza chat`: one question, or a conversation of many turns on a terminal.

Ctrl-C ends the answer that is being written, not the program; Ctrl-D leaves.
"""

import argparse
import asyncio
import contextlib
import sys

from cadenza.client._async_client import AsyncClient
from cadenza.client._options import CompletionOptions
from cadenza.client._prompt import Message
from cadenza.client.cli._commands import connect, sampling_options
from cadenza.client.cli._run import run, run_on
from cadenza.client.cli._terminal import DIM, read_stdin, report, styled, write_pieces
from cadenza.client.errors import CadenzaError


def chat(args: argparse.Namespace) -> int:
    """Answers the question of the arguments or of stdin; converses where neither has one."""
    history = [Message("system", args.system)] if args.system else []
    if args.question is None and sys.stdin.isatty():
        with asyncio.Runner() as runner:
            _converse(runner, args, history)
    else:
        question = read_stdin() if args.question in (None, "-") else args.question
        run(_ask_once(args, [*history, Message("user", question)]))
    return 0


async def _ask_once(args: argparse.Namespace, messages: list[Message]) -> None:
    async with connect(args) as client, client.stream_chat(messages, **sampling_options(args)) as stream:
        await write_pieces(stream.text())


def _converse(runner: asyncio.Runner, args: argparse.Namespace, history: list[Message]) -> None:
    """Reads and answers until end of file; a turn without any answer is forgotten."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() line editing
    client = runner.run(_connected(args))
    options = sampling_options(args)
    while True:
        try:
            question = input("> ")
        except EOFError:
            print()
            break
        except KeyboardInterrupt:
            print()
            continue
        if not question.strip():
            continue
        asked = Message("user", question)
        answer = _answer(runner, client, [*history, asked], options)
        if answer:
            history += [asked, Message("assistant", answer)]
    runner.run(client.close())


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
