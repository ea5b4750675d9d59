"""How fast the engine has been of late, and what a request takes at that speed: for admission by deadline.

The estimate leans low where nothing waits, because a request refused wrongly is worse than one that runs out
of time: what has not been measured costs nothing, and steps are as large as they can be. Where all slots are
taken it leans high: others want the slot too, and one who gets it and is not done in time has wasted it.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Sequence

from cadenza.server.engine.request import StepReport
from cadenza.server.runner.base import RunnerLimits

_REMEMBERED_STEPS = 32
"""Per size of step."""
_REMEMBERED_SECONDS = 60.0
"""Older measurements count no more, so a slow minute does not refuse requests for ever."""
_REMEMBERED_LOOKUPS = 64
_REMEMBERED_RATE_STEPS = 8192
_KV_CACHE_FULL = 0.9
"""Share of the blocks in use from which on sequences wait for blocks, if any wait."""
_SPARE = 1.15
"""A request that has to wait for a slot needs so many times the estimate until its deadline."""


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
        self._tokens_each = _TokensEach()
        self._ends_while_full = _Rate()
        self._prefill_beside_decodes = _Rate()
        self._learned_at = 0.0
        self._lookups: collections.deque[tuple[int, int]] = collections.deque(maxlen=_REMEMBERED_LOOKUPS)
        """Prompt tokens looked up in the prefix cache, and found."""
        self._not_cached = 1.0
        """Share of them that was not found."""
        self._running = 0
        self._waiting = 0
        self._slots = limits.max_sequences
        """Sequences that can run at once: fewer than the limit where they fill the KV cache."""

    def learn(self, report: StepReport, ended: int, now: float) -> None:
        """Takes in one step, in which so many sequences ended."""
        seconds = now - self._learned_at
        if self._running + self._waiting >= self._slots:
            self._ends_while_full.add(ended, seconds, now)
        elif self._running and self._waiting:
            prefill_tokens = report.batch_tokens - report.batch_sequences - report.draft_tokens
            self._prefill_beside_decodes.add(prefill_tokens, seconds, now)
        self._running, self._waiting = report.running, report.waiting
        self._slots = self._limits.max_sequences
        if report.waiting and report.kv_blocks_used >= _KV_CACHE_FULL * report.kv_blocks_total:
            self._slots = report.running
        self._learned_at = now
        if report.batch_tokens:
            self._by_tokens.add(report.batch_tokens, report.duration, now)
            self._by_sequences.add(report.batch_sequences, report.duration, now)
            self._tokens_each.add(report.batch_sequences, report.draft_tokens_accepted)
        if report.prompt_tokens_looked_up:
            self._lookups.append((report.prompt_tokens_looked_up, report.prompt_tokens_cached))
            looked_up, found = map(sum, zip(*self._lookups, strict=True))
            self._not_cached = (looked_up - found) / looked_up

    def seconds(self, work: Work, ahead: Ahead, now: float, begun: Sequence[float]) -> float:
        """What the work takes, from now to its last sure token. `begun`: when what runs began, first to last.

        The prompts ahead and its own in full steps, or as fast as prompts were beside streams while others
        waited; then a step per further token, as slow as those of as many sequences as run now, its own among
        them. Where that is longer: the wait for a slot, its own prompt and its tokens, with some to spare.
        """
        decode = (work.sure_tokens - 1) * self.token_seconds(work.sequences, now)
        soonest = self._prefill(ahead.prompt_tokens + work.prompt_tokens, now) + decode
        slots = self._running + ahead.requests + work.sequences - self._slots
        if slots <= 0 or not work.needs_free_slot:
            return soonest
        own = self._prefill(work.prompt_tokens, now) + decode
        return max(soonest, _SPARE * (self._wait(slots, begun, now) + own))

    def _wait(self, slots: float, begun: Sequence[float], now: float) -> float:
        """For so many slots to become free: at the mean pace of ends, and no sooner than those that run, or
        begin now, are likely to end. What began together ends together, each after the mean time of a slot.
        """
        each = self._ends_while_full.seconds_each(now)
        taken = self._slots * each
        generations, place = divmod(math.ceil(slots) - 1, self._slots)
        since = now - begun[place] if place < len(begun) else 0.0
        return max(slots * each, generations * taken + max(0.0, taken - since))

    def token_seconds(self, sequences: int, now: float) -> float:
        """A step in which so many more sequences generate, by the tokens that each of them gets in it."""
        return self._by_sequences.median(self._running + sequences, now) / self._tokens_each.mean

    def quick_token_seconds(self, now: float) -> float:
        """The same for one more sequence in quick steps, the lower quartile: those without prompts."""
        return self._by_sequences.lower_quartile(self._running + 1, now) / self._tokens_each.mean

    def _prefill(self, prompt_tokens: float, now: float) -> float:
        """Prompt tokens count by the share of them that the prefix cache did not have of late."""
        computed = prompt_tokens * self._not_cached
        full, rest = divmod(max(1, math.floor(computed)), self._limits.max_step_tokens)
        whole = full * self._by_tokens.median(self._limits.max_step_tokens, now)
        soonest = whole + self._by_tokens.median(rest, now)
        beside = computed * self._prefill_beside_decodes.seconds_each(now) if self._running else 0.0
        return max(soonest, beside)


class _TokensEach:
    """How many tokens a sequence has got in one step of late: more than 1 where drafts were accepted."""

    def __init__(self) -> None:
        self._steps: collections.deque[tuple[int, int]] = collections.deque()
        """Sequences, and accepted drafts of all of them."""
        self._sequences = 0
        self._accepted = 0

    def add(self, sequences: int, accepted: int) -> None:
        self._steps.append((sequences, accepted))
        self._sequences += sequences
        self._accepted += accepted
        if len(self._steps) > _REMEMBERED_STEPS:
            sequences, accepted = self._steps.popleft()
            self._sequences -= sequences
            self._accepted -= accepted

    @property
    def mean(self) -> float:
        return 1 + self._accepted / self._sequences if self._sequences else 1.0


class _Rate:
    """How fast something happened in steps of the last minute that were of one kind."""

    def __init__(self) -> None:
        self._steps: collections.deque[tuple[float, int, float]] = collections.deque()
        """When, how much, and in how many seconds."""
        self._amount = 0
        self._seconds = 0.0

    def add(self, amount: int, seconds: float, now: float) -> None:
        self._steps.append((now, amount, seconds))
        self._amount += amount
        self._seconds += seconds
        self._forget(now)

    def seconds_each(self, now: float) -> float:
        """Mean of what is remembered; 0 where nothing happened."""
        self._forget(now)
        return self._seconds / self._amount if self._amount else 0.0

    def _forget(self, now: float) -> None:
        while self._steps and (
            now - self._steps[0][0] > _REMEMBERED_SECONDS or len(self._steps) > _REMEMBERED_RATE_STEPS
        ):
            _, amount, seconds = self._steps.popleft()
            self._amount -= amount
            self._seconds -= seconds


class _StepTimes:
    """Durations of recent steps by size; entry i is of sizes above 2^(i-1) and up to 2^i."""

    def __init__(self) -> None:
        self._recent: dict[int, _Recent] = {}

    def add(self, size: int, seconds: float, now: float) -> None:
        self._recent.setdefault((size - 1).bit_length(), _Recent()).add(seconds, now)

    def median(self, size: int, now: float) -> float:
        """Of the largest known entry whose steps are no larger than `size`; 0 where there is none."""
        return self._quartiles(size, now)[1]

    def lower_quartile(self, size: int, now: float) -> float:
        """Of the same entry."""
        return self._quartiles(size, now)[0]

    def _quartiles(self, size: int, now: float) -> tuple[float, float]:
        for entry in range(size.bit_length() - 1, -1, -1):
            recent = self._recent.get(entry)
            if recent is not None and (quartiles := recent.quartiles(now)) is not None:
                return quartiles
        return 0.0, 0.0


class _Recent:
    """The last durations of one size; their quartiles are kept until one comes or grows old."""

    def __init__(self) -> None:
        self._steps: collections.deque[tuple[float, float]] = collections.deque(maxlen=_REMEMBERED_STEPS)
        """When, and how long."""
        self._quartiles: tuple[float, float] | None = None

    def add(self, seconds: float, now: float) -> None:
        self._steps.append((now, seconds))
        self._quartiles = None

    def quartiles(self, now: float) -> tuple[float, float] | None:
        """The first and the second; None where all are forgotten."""
        while self._steps and now - self._steps[0][0] > _REMEMBERED_SECONDS:
            self._steps.popleft()
            self._quartiles = None
        if self._quartiles is None and self._steps:
            ordered = sorted(seconds for _, seconds in self._steps)
            self._quartiles = ordered[len(ordered) // 4], statistics.median(ordered)
        return self._quartiles
