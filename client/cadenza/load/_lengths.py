"""How long prompts and replies are, in tokens: a number, quantiles, or the shapes of real traffic."""

import bisect
import dataclasses
import math
import random
from collections.abc import Iterable
from typing import Final, Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution by points of its quantile function; between them, log(tokens) is linear in the share.

    Below the first point and above the last one the nearest segment goes on. One point is a constant.
    """

    points: tuple[tuple[float, float], ...]
    """(share from 0 to 1, tokens), both ascending."""

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        tokens = [count for _, count in self.points]
        if not shares or shares != sorted(set(shares)) or not 0 <= shares[0] <= shares[-1] <= 1:
            raise ValueError(f"the percentiles are {shares}; they must ascend within 0 and 1")
        if tokens != sorted(tokens) or tokens[0] < 1:
            raise ValueError(f"the lengths are {tokens}; they must not descend, and be at least 1")

    def tokens(self, share: float) -> int:
        """The length below which this share of texts lies, rounded, at least 1."""
        if len(self.points) == 1:
            return round(self.points[0][1])
        segment = bisect.bisect([point for point, _ in self.points], share)
        segment = min(max(segment, 1), len(self.points) - 1)
        (low, shorter), (high, longer) = self.points[segment - 1 : segment + 1]
        exponent = (share - low) / (high - low)
        return max(1, round(shorter * math.exp(exponent * math.log(longer / shorter))))


def constant(tokens: int) -> Quantiles:
    """Every text has this length."""
    return Quantiles(((0.5, float(tokens)),))


def _seen(*tokens: float) -> Quantiles:
    return Quantiles(tuple(zip((0.05, 0.25, 0.5, 0.75, 0.95, 0.99), tokens, strict=True)))


CHAT_PROMPT: Final = _seen(5, 14, 36, 187, 1740, 3280)
CHAT_REPLY: Final = _seen(22, 126, 257, 400, 771, 937)
CODE_PROMPT: Final = _seen(58, 95, 122, 166, 275, 323)
CODE_REPLY: Final = _seen(11, 28, 48, 80, 138, 186)
PRESETS: Final = {"chat": (CHAT_PROMPT, CHAT_REPLY), "code": (CODE_PROMPT, CODE_REPLY)}
"""(prompt, reply) as seen in real traffic."""


class Lengths(Protocol):
    """Says how long the prompt and the reply of a request are."""

    def of(self, index: int, source: random.Random) -> tuple[int, int]:
        """Tokens of (prompt, reply)."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class DrawnLengths:
    """Prompt and reply, drawn independently of each other."""

    prompt: Quantiles
    reply: Quantiles

    def of(self, index: int, source: random.Random) -> tuple[int, int]:  # noqa: ARG002 - every draw is alike
        return self.prompt.tokens(source.random()), self.reply.tokens(source.random())


@dataclasses.dataclass(frozen=True, slots=True)
class ListedLengths:
    """The lengths of a trace, from the beginning again after its end."""

    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.pairs or any(min(pair) < 1 for pair in self.pairs):
            raise ValueError("a trace needs at least one request, and lengths of at least 1 token")

    def of(self, index: int, source: random.Random) -> tuple[int, int]:  # noqa: ARG002 - nothing is drawn
        return self.pairs[index % len(self.pairs)]


def parse_quantiles(text: str) -> Quantiles:
    """A number ("64") or percentiles ("5=20,50=100,95=900"). Raises ValueError."""
    try:
        if "=" not in text:
            return constant(int(text))
        return Quantiles(tuple(sorted(_points(text.split(",")))))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no length: give tokens as 64, or percentiles as 5=20,50=100,95=900 ({error})"
        ) from None


def _points(parts: Iterable[str]) -> Iterable[tuple[float, float]]:
    for part in parts:
        percentile, _, tokens = part.partition("=")
        yield float(percentile) / 100, float(tokens)
