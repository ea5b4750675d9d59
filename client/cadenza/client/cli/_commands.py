"""The commands that ask once and print: complete, models, health and tokens."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

from cadenza.client._async_stream import AsyncStream
from cadenza.client._options import CompletionOptions
from cadenza.client._results import Model, ServingStatus, TokenCount
from cadenza.client.cli._connect import connect
from cadenza.client.cli._run import run
from cadenza.client.cli._terminal import BOLD, styled, write_pieces
from cadenza.client.cli._text import text_from

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


def sampling_options(args: argparse.Namespace) -> CompletionOptions:
    """The sampling flags that were given; the others are None, which is not sent."""
    return cast("CompletionOptions", {name: getattr(args, name) for name in SAMPLING})


def complete(args: argparse.Namespace) -> int:
    """Completes a prompt: as text or as JSON, streamed or at once."""
    run(_complete(args, text_from(args.prompt, args.files)))
    return 0


async def _complete(args: argparse.Namespace, prompt: str) -> None:
    options = sampling_options(args)
    is_streamed = not args.json if args.stream is None else args.stream
    async with connect(args) as client:
        if is_streamed:
            async with client.stream(prompt, **options) as stream:
                await (_print_chunks(stream) if args.json else write_pieces(stream.text()))
            return
        completion = await client.complete(prompt, **options)
    if args.json:
        _print_json(completion)
    else:
        print(completion.text)


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
            return await client.health(args.service, max_retries=0)

    status = run(ask())
    print(status)
    return 0 if status is ServingStatus.SERVING else 1


def tokens(args: argparse.Namespace) -> int:
    """Prints how many tokens a text has, and their ids."""
    text = text_from(args.text, args.files)

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


async def _print_chunks(stream: AsyncStream) -> None:
    """JSON Lines: one chunk a line, as it comes."""
    async for chunk in stream:
        print(json.dumps(dataclasses.asdict(chunk)), flush=True)


def _print_json(result: Any) -> None:
    """Dataclasses and tuples of them as one JSON value, its keys the names of their fields."""
    print(json.dumps(result, default=dataclasses.asdict, indent=2))
