"""How a model's numbers are judged against the oracle's: pure functions of a `LogitsFunction`.

The SavedModel, the CPU program and the parity run are checked by these same functions.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

LogitsFunction = Callable[[Sequence[int]], npt.NDArray[np.float32]]
"""From the token ids of one sequence, [T], to the logits after each of them, [T, V]."""

TIE: Final = 1e-4
"""Lead in logits under which two float32 implementations may choose different tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class GreedyCase:
    """A prompt and the tokens that the oracle generates from it greedily, end tokens ignored."""

    name: str
    text: str | None
    """The prompt as text; None where it is a chat."""
    chat: tuple[Mapping[str, str], ...]
    """The prompt as messages of role and content; empty where it is a text."""
    prompt: tuple[int, ...]
    """The prompt's token ids, the chat template applied."""
    completion: tuple[int, ...]
    gaps: tuple[float, ...]
    """At each step the oracle's best logit less its second best."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """What the oracle says of the real model."""

    humaneval_tokens: int
    """How many tokens of the HumanEval text are scored."""
    humaneval_nll: float
    """Mean negative log-likelihood of those tokens but the first, in nats."""
    humaneval_nll_digits_undivided: float
    """The same where the text is tokenized without the rule that digits stand alone."""
    greedy: tuple[GreedyCase, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A step at which another token than the oracle's is the most probable one."""

    case: str
    step: int
    expected: int
    found: int
    gap: float

    @property
    def is_tie(self) -> bool:
        """Whether the oracle itself was within rounding of choosing otherwise."""
        return self.gap < TIE


def mean_nll(logits: LogitsFunction, token_ids: Sequence[int]) -> float:
    """Returns the mean negative log-likelihood in nats of all tokens but the first."""
    rows = logits(token_ids)[:-1].astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    chosen = rows[np.arange(len(rows)), np.asarray(token_ids[1:])]
    return float(np.mean(np.log(np.exp(rows).sum(axis=-1)) - chosen))


def greedy_differences(logits: LogitsFunction, case: GreedyCase) -> list[Difference]:
    """Returns every step at which the model parts from the oracle, given the oracle's tokens before it."""
    rows = logits([*case.prompt, *case.completion[:-1]])[len(case.prompt) - 1 :]
    steps = zip(case.completion, rows.argmax(axis=-1).tolist(), case.gaps, strict=True)
    return [
        Difference(case.name, step, expected, found, gap)
        for step, (expected, found, gap) in enumerate(steps)
        if found != expected
    ]


def load_reference(path: Path, encode: Callable[[str], Sequence[int]], humaneval: Sequence[str]) -> Reference:
    """Reads the oracle's file; the token ids of third-party prompts are made anew from their texts.

    `humaneval` holds the prompts of HumanEval by index. Raises `ValueError` where `encode` gives other
    token ids for one than the oracle's tokenizer did.
    """
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Reference(
        humaneval_tokens=content["humaneval"]["tokens"],
        humaneval_nll=content["humaneval"]["mean_nll"],
        humaneval_nll_digits_undivided=content["humaneval"]["mean_nll_digits_undivided"],
        greedy=tuple(_greedy_case(entry, encode, humaneval) for entry in content["greedy"]),
    )


def _greedy_case(
    entry: dict[str, Any], encode: Callable[[str], Sequence[int]], humaneval: Sequence[str]
) -> GreedyCase:
    chat: tuple[Mapping[str, str], ...] = tuple(entry.get("chat", ()))
    text: str | None = entry.get("text")
    if "humaneval" in entry:
        name = f"HumanEval/{entry['humaneval']}"
        text = humaneval[entry["humaneval"]]
        prompt = encode(text)
        if token_digest(prompt) != entry["prompt_token_ids_sha256"]:
            raise ValueError(f"{name}: the tokenizer gives other token ids than the oracle's did")
    else:
        name = text or chat[-1]["content"]
        prompt = entry["prompt_token_ids"]
    return GreedyCase(name, text, chat, tuple(prompt), tuple(entry["token_ids"]), tuple(entry["gaps"]))


def token_digest(token_ids: Sequence[int]) -> str:
    """Returns a sha256 that stands for token ids whose text is not ours to commit."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()
