"""What arrives when: the requests that a simulation, or a run in real time, replays.

A trace file has one JSON object a line, with the fields of TraceRequest; what has a default may be left out:

    {"arrival": 0.25, "prompt_tokens": 120, "output_tokens": 64, "prefix": "system", "prefix_tokens": 96}
"""

import dataclasses
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cadenza.server.engine.request import Request

LEAST_TOKEN, VOCABULARY = 100, 49_152
"""Prompts are drawn from SmolLM2's vocabulary; its special tokens, which lie first, are left out."""


class TraceError(Exception):
    """A line of a trace file is no request."""


@dataclasses.dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request. Its tokens follow from the seed of the replay."""

    arrival: float
    """Seconds after the trace's begin."""
    prompt_tokens: int
    output_tokens: int
    """Generated to the last: ends of the model are ignored."""
    prefix: str = ""
    """Requests of one group share the first prefix_tokens of their prompts."""
    prefix_tokens: int = 0
    client: str = ""
    priority: int = 0
    deadline: float = math.inf
    """Seconds after the arrival."""

    def __post_init__(self) -> None:
        if self.arrival < 0 or self.deadline <= 0 or self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError("arrival must be 0 or more; deadline, prompt_tokens and output_tokens positive")
        if not 0 <= self.prefix_tokens <= self.prompt_tokens:
            raise ValueError(
                f"prefix_tokens is {self.prefix_tokens}, prompt_tokens {self.prompt_tokens}: not within"
            )


def read_trace(path: Path) -> list[TraceRequest]:
    """Reads a trace file. Raises TraceError with the number of a line that is wrong."""
    trace = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            trace.append(_request(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise TraceError(f"{path}, line {number}: {error}") from error
    return trace


def write_trace(trace: Iterable[TraceRequest], path: Path) -> None:
    """Writes a trace file; what has its default is left out."""
    lines = []
    for item in trace:
        fields = {
            field.name: value
            for field in dataclasses.fields(item)
            if (value := getattr(item, field.name)) != field.default
        }
        lines.append(json.dumps(fields))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _request(fields: object) -> TraceRequest:
    if not isinstance(fields, Mapping):
        raise TypeError(f"{fields!r} is no JSON object")
    known = {field.name: field.type for field in dataclasses.fields(TraceRequest)}
    if unknown := sorted(fields.keys() - known.keys()):
        raise ValueError(f"{', '.join(unknown)}: unknown; the fields are {', '.join(known)}")
    for name, value in fields.items():
        if not isinstance(value, _ALLOWED[known[name]]) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; it must be of type {known[name]}")
    return TraceRequest(**fields)


_ALLOWED: Mapping[object, tuple[type, ...]] = {float: (int, float), int: (int,), str: (str,)}


def engine_requests(trace: Sequence[TraceRequest], seed: int) -> list[Request]:
    """The requests as the engine takes them, in order of arrival; its clock is 0 at the trace's begin."""
    ordered = sorted(trace, key=lambda item: item.arrival)
    return [_engine_request(str(index), item, seed) for index, item in enumerate(ordered)]


def _engine_request(name: str, item: TraceRequest, seed: int) -> Request:
    shared = _tokens(f"{seed} prefix {item.prefix}", item.prefix_tokens)
    own = _tokens(f"{seed} request {name}", item.prompt_tokens - item.prefix_tokens)
    return Request(
        request_id=name,
        prompt_token_ids=(*shared, *own),
        max_tokens=item.output_tokens,
        arrival_time=item.arrival,
        client=item.client,
        priority=item.priority,
        deadline=item.arrival + item.deadline,
    )


def _tokens(key: str, count: int) -> list[int]:
    source = random.Random(key)
    return [source.randrange(LEAST_TOKEN, VOCABULARY) for _ in range(count)]
