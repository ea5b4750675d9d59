"""The command's arguments. Connection flags may stand before or after the command's name."""

import argparse
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cadenza.client._settings import DEFAULT_RETRIES, DEFAULT_TARGET, DEFAULT_TIMEOUT
from cadenza.client.cli._chat import chat
from cadenza.client.cli._commands import complete, health, models, tokens
from cadenza.client.cli._connect import CONNECTION
from cadenza.client.cli._load import add_load_flags, load

_EPILOG = """\
environment, where the flag is not given:
  CADENZA_TARGET, CADENZA_MODEL, CADENZA_TIMEOUT, CADENZA_CLIENT_ID, CADENZA_MAX_RETRIES
  CADENZA_TLS=1, CADENZA_TLS_CA_FILE, CADENZA_TLS_CERT_FILE, CADENZA_TLS_KEY_FILE,
  CADENZA_TLS_SERVER_NAME: as --tls, --ca-file, --cert-file, --key-file, --server-name
  CADENZA_TOKEN, CADENZA_TOKEN_FILE: the bearer token, or the file that holds it
  NO_COLOR: no colours, on a terminal either

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


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command. Parsed arguments have `run`; flags that were not given are None."""
    parser = argparse.ArgumentParser(
        prog="cadenza",
        description="Complete prompts and chat with the models of a Cadenza server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    _add_connection(parser)
    parser.set_defaults(**dict.fromkeys(CONNECTION))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_complete(commands)
    _add_chat(commands)
    _add_models(commands)
    _add_health(commands)
    _add_tokens(commands)
    add_load_flags(_command(commands, "load", load, "load the server and measure latency and throughput"))
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
    _add_text(parser, "prompt", "the text to go on with")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="show the text as it is generated, or when it is complete (default: --stream; for --json not)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the completion as JSON; with --stream a line per chunk"
    )
    _add_sampling(parser)


def _add_chat(commands: _Commands) -> None:
    parser = _command(
        commands,
        "chat",
        chat,
        "ask one question, or converse on a terminal (Ctrl-C ends an answer, Ctrl-D leaves)",
    )
    _add_text(parser, "question", "asked once; without it, a conversation begins on a terminal")
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument(
        "--no-history", action="store_true", help="keep no file of questions for the arrow keys to find"
    )
    _add_sampling(parser)


def _add_models(commands: _Commands) -> None:
    parser = _command(commands, "models", models, "list the models that the server has loaded")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_health(commands: _Commands) -> None:
    parser = _command(commands, "health", health, "say whether the server is serving, for people and probes")
    parser.add_argument("--service", metavar="NAME", default="", help="a service of it, by its full name")


def _add_tokens(commands: _Commands) -> None:
    parser = _command(commands, "tokens", tokens, "count the tokens of a text and print their ids")
    _add_text(parser, "text", "the text")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_text(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """An argument, files, or stdin: whatever people have their text in."""
    parser.add_argument(
        name,
        metavar=name.upper(),
        nargs="?",
        help=f"{meaning}; - is stdin, which is read too where all is absent",
    )
    parser.add_argument(
        "-f", "--file", dest="files", metavar="FILE", action="append", default=[],
        help="text that goes before it, with an empty line between; may be repeated; - is stdin",
    )  # fmt: skip


def _add_connection(parser: argparse.ArgumentParser) -> None:
    """Flags without defaults: those of the main parser must survive the command's."""
    group = parser.add_argument_group("connection", argument_default=argparse.SUPPRESS)
    group.add_argument("--target", metavar="HOST:PORT", help=f"the server (default: {DEFAULT_TARGET})")
    group.add_argument("--model", metavar="NAME", help="the model (default: the only one)")
    group.add_argument(
        "--timeout", metavar="SECONDS", type=float, help=f"for a whole call (default: {DEFAULT_TIMEOUT:g})"
    )
    group.add_argument(
        "--max-retries", metavar="N", type=int, help=f"where that may help (default: {DEFAULT_RETRIES})"
    )
    group.add_argument("--client-id", metavar="ID", help="between whom the server shares its work fairly")
    group.add_argument("--token-file", metavar="FILE", type=Path, help="the bearer token")
    group.add_argument("--tls", action="store_true", help="use TLS; the flags below do as well")
    group.add_argument("--ca-file", metavar="FILE", help="PEM: who may have signed the server's certificate")
    group.add_argument("--cert-file", metavar="FILE", help="PEM: a certificate of one's own, for mutual TLS")
    group.add_argument("--key-file", metavar="FILE", help="PEM: its private key")
    group.add_argument("--server-name", metavar="NAME", help="the name in the server's certificate")


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
