"""The command's arguments. Connection flags may stand before or after the command's name."""

import argparse
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

from cadenza.client._channel import DEFAULT_TARGET, DEFAULT_TIMEOUT
from cadenza.client.cli._chat import chat
from cadenza.client.cli._commands import complete, health, models, tokens

_EPILOG = """\
environment:
  CADENZA_TARGET  the server where --target is not given
  CADENZA_MODEL   the model where --model is not given
  NO_COLOR        no colours, on a terminal either

exit codes:
  0    done; for `health`: the server is SERVING
  1    the server refused, failed or was not reached; for `health`: it is not SERVING
  2    wrong usage; nothing was sent
  130  interrupted

Failures are one line on stderr: `cadenza: REASON: message`.
"""


class _ShowVersion(argparse.Action):
    """Looks the version up when it is asked for: reading package metadata costs every start otherwise."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"cadenza {importlib.metadata.version('cadenza')}")
        parser.exit()


def build_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the whole command; `environment` gives defaults. Parsed arguments have `run`."""
    parser = argparse.ArgumentParser(
        prog="cadenza",
        description="Complete prompts and chat with the models of a Cadenza server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    _add_connection(parser)
    parser.set_defaults(
        target=environment.get("CADENZA_TARGET") or DEFAULT_TARGET,
        model=environment.get("CADENZA_MODEL", ""),
        timeout=DEFAULT_TIMEOUT,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_complete(commands)
    _add_chat(commands)
    _add_models(commands)
    _add_health(commands)
    _add_tokens(commands)
    return parser


_Commands = Any  # argparse keeps the type of add_subparsers() to itself
_Run = Callable[[argparse.Namespace], int]


def _command(commands: _Commands, name: str, run: _Run, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(run=run)
    _add_connection(parser)
    return parser


def _add_complete(commands: _Commands) -> None:
    parser = _command(
        commands, "complete", complete, "complete a prompt, showing the text as it is generated"
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the text to go on with; - reads it from stdin")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--no-stream", action="store_true", help="show the text when it is complete")
    output.add_argument("--json", action="store_true", help="print the whole completion as JSON")
    _add_sampling(parser)


def _add_chat(commands: _Commands) -> None:
    parser = _command(
        commands,
        "chat",
        chat,
        "ask one question, or converse on a terminal (Ctrl-C ends an answer, Ctrl-D leaves)",
    )
    parser.add_argument(
        "question",
        metavar="QUESTION",
        nargs="?",
        help="asked once; without it, stdin unless that is a terminal",
    )
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    _add_sampling(parser)


def _add_models(commands: _Commands) -> None:
    parser = _command(commands, "models", models, "list the models that the server has loaded")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_health(commands: _Commands) -> None:
    _command(commands, "health", health, "say whether the server is serving")


def _add_tokens(commands: _Commands) -> None:
    parser = _command(commands, "tokens", tokens, "count the tokens of a text and print their ids")
    parser.add_argument("text", metavar="TEXT", help="the text; - reads it from stdin")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    """Flags without defaults: those of the main parser must survive the command's."""
    group = parser.add_argument_group("connection", argument_default=argparse.SUPPRESS)
    group.add_argument("--target", metavar="HOST:PORT", help=f"the server (default: {DEFAULT_TARGET})")
    group.add_argument("--model", metavar="NAME", help="the model (default: the only one)")
    group.add_argument(
        "--timeout", metavar="SECONDS", type=float, help=f"for the whole call (default: {DEFAULT_TIMEOUT:g})"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """What is not given is not sent: the server's and the model's defaults hold."""
    group = parser.add_argument_group("sampling (defaults are the server's)")
    group.add_argument("--max-tokens", metavar="N", type=int, help="most tokens to generate")
    group.add_argument("--temperature", metavar="T", type=float, help="softmax temperature; 0 is greedy")
    group.add_argument(
        "--top-k", metavar="K", type=int, help="sample among the k most probable tokens; 0 is all"
    )
    group.add_argument("--top-p", metavar="P", type=float, help="sample within this total probability")
    group.add_argument(
        "--min-p", metavar="P", type=float, help="leave out tokens below this share of the best"
    )
    group.add_argument("--seed", metavar="N", type=int, help="make sampling repeatable")
    group.add_argument(
        "--stop", metavar="TEXT", action="append", help="end before this text; may be repeated"
    )
    group.add_argument(
        "--ignore-eos", action="store_const", const=True, help="go on after the model's end-of-sequence token"
    )
