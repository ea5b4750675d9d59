"""What is measured, and what came of it."""

import dataclasses
import statistics
from collections.abc import Sequence

from tests.bench.rivals.contestants import Contestant


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    concurrency: Sequence[int]
    """How many prompts at once throughput is measured with, each in a turn."""
    new_tokens: int
    """Of each of them."""
    context: int
    """Tokens before each sequence where decode at a long context is measured."""
    texts: int
    """Whose likelihood is measured."""
    questions: int
    """That are answered."""


@dataclasses.dataclass(slots=True)
class Result:
    """What one contestant did. A list has a value per round."""

    contestant: Contestant
    load_seconds: float = 0.0
    throughput: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    """Tokens per second of all together, by concurrency."""
    ttft: list[float] = dataclasses.field(default_factory=list)
    """Of the long prompt on an idle engine, seconds."""
    long_decode: list[float] = dataclasses.field(default_factory=list)
    """Tokens per second of all together while all decode, each with the plan's context before it."""
    nll: dict[str, float] = dataclasses.field(default_factory=dict)
    """Mean negative log-likelihood per token, nats, by text."""
    answers: list[list[int]] = dataclasses.field(default_factory=list)
    """The first tokens of the answer to each question."""
    peak_bytes: int = 0
    """The most memory that was resident, of all its processes."""
    failure: str = ""
    """Why it takes no part any more."""

    def speed(self, concurrency: int) -> float | None:
        """Median tokens per second; None where there is no value."""
        return median(self.throughput.get(concurrency, ()))


def median(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return statistics.median(values) if values else None
