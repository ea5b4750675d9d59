"""How fast the engine has been of late, and what a request takes at that speed: for admission by deadline.

The estimate leans low, because a request refused wrongly is worse than one that runs out of time: what has
not been measured costs nothing, and steps are taken to be as large as they can be.
"""

import collections
import dataclasses
import math
import statistics

from cadenza.server.engine.request import StepReport

_REMEMBERED_STEPS = 32
"""Per size of step."""
_REMEMBERED_SECONDS = 60.0
"""Older measurements count no more, so a slow minute does not refuse requests for ever."""
_REMEMBERED_LOOKUPS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What must be computed before a request has its answer."""

    prompt_tokens: float
    """Its own and those before it."""
    sequences: int = 1
    sure_tokens: int = 1
    """Tokens per sequence that it certainly generates."""


class Pace:
    """Learns from the reports of steps; belongs to one thread. Times are seconds on the engine's clock."""

    def __init__(self, max_step_tokens: int) -> None:
        self._max_step_tokens = max_step_tokens
        self._steps: dict[int, collections.deque[tuple[float, float]]] = {}
        """When and how long, by size: entry i is of steps of more than 2^(i-1) and at most 2^i tokens."""
        self._lookups: collections.deque[tuple[int, int]] = collections.deque(maxlen=_REMEMBERED_LOOKUPS)
        """Prompt tokens looked up in the prefix cache, and found."""
        self._running = 0

    def learn(self, report: StepReport, now: float) -> None:
        """Takes in one step."""
        self._running = report.running
        if report.batch_tokens:
            size = (report.batch_tokens - 1).bit_length()
            steps = self._steps.setdefault(size, collections.deque(maxlen=_REMEMBERED_STEPS))
            steps.append((now, report.duration))
        if report.prompt_tokens_looked_up:
            self._lookups.append((report.prompt_tokens_looked_up, report.prompt_tokens_cached))

    def seconds(self, work: Work, now: float) -> float:
        """What the work takes at least: its prompt tokens in full steps, then one step per further token.

        Prompt tokens count by the share of them that the prefix cache did not have of late; a step per token
        is as slow as steps of those sequences were that now run, and the work's own.
        """
        tokens = max(1, math.floor(self._not_cached(work.prompt_tokens)))
        full, rest = divmod(tokens, self._max_step_tokens)
        prefill = full * self._step(self._max_step_tokens, now) + self._step(rest, now)
        return prefill + (work.sure_tokens - 1) * self._step(self._running + work.sequences, now)

    def _not_cached(self, prompt_tokens: float) -> float:
        looked_up = sum(tokens for tokens, _ in self._lookups)
        found = sum(found for _, found in self._lookups)
        return prompt_tokens * (looked_up - found) / looked_up if looked_up else prompt_tokens

    def _step(self, tokens: int, now: float) -> float:
        """The median duration of recent steps of the largest known size that is not above `tokens`."""
        for size in range(tokens.bit_length() - 1, -1, -1):
            recent = [
                duration for when, duration in self._steps.get(size, ()) if now - when <= _REMEMBERED_SECONDS
            ]
            if recent:
                return statistics.median(recent)
        return 0.0
