"""The loop of an engine's own process: a task a line on stdin, an answer a line on stdout, both JSON.

It runs in the environment of a rival, so it needs the standard library alone. Engines print what they like:
their stdout goes to stderr, and the answers to the pipe that stdout was.
"""

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TextIO

TokenIds = Sequence[int]


@dataclasses.dataclass(slots=True)
class Completion:
    """What came of one prompt."""

    token_ids: list[int] = dataclasses.field(default_factory=list)
    """Empty where the engine's door does not tell them."""
    times: list[float] = dataclasses.field(default_factory=list)
    """When each token was there, in seconds since all prompts were handed over."""

    def extend(self, token_ids: Iterable[int], at: float) -> None:
        """Notes tokens that came together."""
        new = list(token_ids)
        self.token_ids += new
        self.times += [at] * len(new)


class Engine(Protocol):
    """What a driver makes of an engine."""

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """Completes all prompts at once, greedily, `new_tokens` each, the model's end token ignored."""

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """The natural logarithms of the probabilities of the tokens but the first, [T - 1]."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What every driver is told; what only one of them knows is in `options`."""

    model: str
    """Path of the model in the engine's own format."""
    threads: int
    max_sequences: int
    """Completions that run at once."""
    max_context: int
    """Tokens of one sequence."""
    kv_tokens: int
    """Tokens that the KV cache has to hold at least, of all sequences."""
    speculates: bool
    """Whether the engine guesses tokens by prompt lookup."""
    options: dict[str, Any]


def serve(load: Callable[[Settings], Engine]) -> None:
    """Loads an engine by the settings in argv[1] and answers tasks until stdin ends."""
    answers = _own_stdout()
    settings = Settings(**json.loads(sys.argv[1]))
    begin = time.perf_counter()
    engine = load(settings)
    _say(answers, {"load_seconds": time.perf_counter() - begin})
    for line in sys.stdin:
        try:
            answer = _answer(engine, json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is its answer
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        _say(answers, answer)


def _answer(engine: Engine, task: dict[str, Any]) -> dict[str, Any]:
    if task["task"] == "complete":
        completions = engine.complete(task["prompts"], task["new_tokens"])
        return {"completions": [dataclasses.asdict(one) for one in completions]}
    return {"logprobs": list(engine.logprobs(task["token_ids"]))}


def _own_stdout() -> TextIO:
    """The pipe that stdout was; from here on what is printed goes to stderr, from C as well."""
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "w", encoding="utf-8")


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
