"""How fast the engine has been of late, and what a request takes at that speed: for admission by deadline.

The estimate leans low, because a request refused wrongly is worse than one that runs out of time: what has
not been measured costs nothing, steps are as large as they can be, and slots come free as fast as they ever
did of late.
"""

import collections
import dataclasses
import math
import statistics

from cadenza.server.engine.request import StepReport
from cadenza.server.runner.base import RunnerLimits

_REMEMBERED_STEPS = 32
"""Per size of step."""
_REMEMBERED_SECONDS = 60.0
"""Older measurements count no more, so a slow minute does not refuse requests for ever."""
_REMEMBERED_LOOKUPS = 64
_REMEMBERED_ENDS = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Ahead:
    """What waits and is computed before a request, or beside it."""

    requests: float = 0.0
    prompt_tokens: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What a request asks for."""

    prompt_tokens: int
    sequences: int = 1
    sure_tokens: int = 1
    """Tokens per sequence that it certainly generates."""
    needs_free_slot: bool = True
    """False where it may take the place of what runs."""


class Pace:
    """Learns from the reports of steps; belongs to one thread. Times are seconds on the engine's clock."""

    def __init__(self, limits: RunnerLimits) -> None:
        self._limits = limits
        self._by_tokens = _StepTimes()
        self._by_sequences = _StepTimes()
        self._ends: collections.deque[float] = collections.deque(maxlen=_REMEMBERED_ENDS)
        self._lookups: collections.deque[tuple[int, int]] = collections.deque(maxlen=_REMEMBERED_LOOKUPS)
        """Prompt tokens looked up in the prefix cache, and found."""
        self._running = 0

    def learn(self, report: StepReport, ended: int, now: float) -> None:
        """Takes in one step, in which so many sequences ended."""
        self._running = report.running
        if report.batch_tokens:
            self._by_tokens.add(report.batch_tokens, report.duration, now)
            self._by_sequences.add(report.batch_sequences, report.duration, now)
        if report.prompt_tokens_looked_up:
            self._lookups.append((report.prompt_tokens_looked_up, report.prompt_tokens_cached))
        self._ends.extend([now] * ended)

    def seconds(self, work: Work, ahead: Ahead, now: float) -> float:
        """What the work takes at least, from now to its last sure token.

        First the prompts ahead and its own in full steps, or the wait for a slot and its own prompt,
        whichever is longer; then a step per further token, as slow as those of as many sequences as run now,
        its own among them.
        """
        prompts = self._prefill(ahead.prompt_tokens + work.prompt_tokens, now)
        if work.needs_free_slot:
            slots = self._running + ahead.requests + work.sequences - self._limits.max_sequences
            prompts = max(prompts, self._wait_for_ends(slots, now) + self._prefill(work.prompt_tokens, now))
        return prompts + (work.sure_tokens - 1) * self._by_sequences.median(
            self._running + work.sequences, now
        )

    def _prefill(self, prompt_tokens: float, now: float) -> float:
        """Prompt tokens count by the share of them that the prefix cache did not have of late."""
        looked_up = sum(tokens for tokens, _ in self._lookups)
        found = sum(found for _, found in self._lookups)
        computed = prompt_tokens * (looked_up - found) / looked_up if looked_up else prompt_tokens
        full, rest = divmod(max(1, math.floor(computed)), self._limits.max_step_tokens)
        whole = full * self._by_tokens.median(self._limits.max_step_tokens, now)
        return whole + self._by_tokens.median(rest, now)

    def _wait_for_ends(self, count: float, now: float) -> float:
        """The shortest time in which so many sequences in a row ended of late; 0 where too few have."""
        ends = [end for end in self._ends if now - end <= _REMEMBERED_SECONDS]
        span = math.floor(count)
        if span < 1 or span >= len(ends):
            return 0.0
        return min(last - first for first, last in zip(ends, ends[span:], strict=False))


class _StepTimes:
    """Durations of recent steps by size; entry i is of sizes above 2^(i-1) and up to 2^i."""

    def __init__(self) -> None:
        self._steps: dict[int, collections.deque[tuple[float, float]]] = {}

    def add(self, size: int, seconds: float, now: float) -> None:
        steps = self._steps.setdefault((size - 1).bit_length(), collections.deque(maxlen=_REMEMBERED_STEPS))
        steps.append((now, seconds))

    def median(self, size: int, now: float) -> float:
        """Of the largest known entry whose steps are no larger than `size`; 0 where there is none."""
        for entry in range(size.bit_length() - 1, -1, -1):
            recent = [s for when, s in self._steps.get(entry, ()) if now - when <= _REMEMBERED_SECONDS]
            if recent:
                return statistics.median(recent)
        return 0.0
