"""The commands that ask once and print: complete, models, health and tokens."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

from cadenza.client._async_client import AsyncClient
from cadenza.client._options import CompletionOptions
from cadenza.client._results import Model, ServingStatus, TokenCount
from cadenza.client.cli._run import run
from cadenza.client.cli._terminal import BOLD, read_stdin, styled, write_pieces

SAMPLING: Final = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "stop",
    "ignore_eos",
)
"""Flags that are options of the SDK by the same name."""


def connect(args: argparse.Namespace) -> AsyncClient:
    """The client that the connection flags ask for; to be called on the event loop."""
    return AsyncClient(args.target, model=args.model, timeout=args.timeout)


def sampling_options(args: argparse.Namespace) -> CompletionOptions:
    """The sampling flags that were given; the others are None, which is not sent."""
    return cast("CompletionOptions", {name: getattr(args, name) for name in SAMPLING})


def complete(args: argparse.Namespace) -> int:
    """Completes a prompt: streamed, at once, or as JSON."""
    prompt = read_stdin() if args.prompt == "-" else args.prompt
    run(_complete(args, prompt))
    return 0


async def _complete(args: argparse.Namespace, prompt: str) -> None:
    options = sampling_options(args)
    async with connect(args) as client:
        if args.json:
            _print_json(await client.complete(prompt, **options))
        elif args.no_stream:
            print((await client.complete(prompt, **options)).text)
        else:
            async with client.stream(prompt, **options) as stream:
                await write_pieces(stream.text())


def models(args: argparse.Namespace) -> int:
    """Lists the models of the server."""

    async def ask() -> tuple[Model, ...]:
        async with connect(args) as client:
            return await client.models()

    found = run(ask())
    if args.json:
        _print_json(found)
    else:
        _print_columns(
            ("NAME", "VERSION", "FAMILY", "PRECISION", "PARAMETERS", "CONTEXT", "CHAT"),
            [_row(model) for model in found],
        )
    return 0


def health(args: argparse.Namespace) -> int:
    """Prints the server's status; 0 where it serves, 1 otherwise."""

    async def ask() -> ServingStatus:
        async with connect(args) as client:
            return await client.health()

    status = run(ask())
    print(status)
    return 0 if status is ServingStatus.SERVING else 1


def tokens(args: argparse.Namespace) -> int:
    """Prints how many tokens a text has, and their ids."""
    text = read_stdin() if args.text == "-" else args.text

    async def ask() -> TokenCount:
        async with connect(args) as client:
            return await client.count_tokens(text)

    count = run(ask())
    if args.json:
        _print_json(count)
    else:
        print(count.prompt_tokens)
        print(*count.token_ids)
    return 0


def _row(model: Model) -> tuple[str, ...]:
    chat = "yes" if model.has_chat_template else "no"
    parameters = f"{model.parameter_count / 1e6:,.1f}M"
    described = str(model.version), model.family, model.precision, parameters, str(model.max_context)
    return (model.name, *described, chat)


def _print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(styled(line, BOLD, sys.stdout) if row is header else line)


def _print_json(result: Any) -> None:
    """Dataclasses and tuples of them as one JSON value, its keys the names of their fields."""
    print(json.dumps(result, default=dataclasses.asdict, indent=2))
