"""Decides what each step advances: which sequences, by how many tokens.

The scheduler knows no phases. A sequence has pending tokens, one in decode, many in prefill or after a
preemption, and a step hands out a budget of tokens: first to sequences that decode, so that their streams
go on, then to those in prefill, oldest first. It has no clock and does no input or output: the same calls
give the same schedules.
"""

import dataclasses
from collections import deque

from cadenza.server.engine.kv_cache import KVCache
from cadenza.server.engine.sequence import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What a step may hold."""

    max_step_tokens: int
    max_sequences: int
    mixed_prefill_tokens: int
    """Most prefill tokens of a step in which sequences decode too: bounds how long their streams pause."""


@dataclasses.dataclass(frozen=True, slots=True)
class Advance:
    """Compute the next `num_tokens` pending tokens of a sequence."""

    sequence: Sequence
    num_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """The work of one step."""

    advances: tuple[Advance, ...]
    preempted: tuple[Sequence, ...]
    """Sequences that lost their blocks and wait again, to be recomputed."""


class Scheduler:
    """Owns the queues. A sequence is in `waiting` or in `running`, and holds blocks only in the latter."""

    def __init__(self, limits: SchedulerLimits, kv_cache: KVCache) -> None:
        self._limits = limits
        self._kv_cache = kv_cache
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """Oldest first."""

    def add(self, sequence: Sequence) -> None:
        """Lets a new sequence wait for its turn."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence and frees its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._kv_cache.release(sequence)
        else:
            self.waiting.remove(sequence)

    def schedule(self) -> Schedule:
        """Plans the next step; it is empty only where nothing waits or runs."""
        preempted: list[Sequence] = []
        decodes = self._schedule_decodes(preempted)
        room = self._limits.max_step_tokens - len(decodes)
        budget = min(room, self._limits.mixed_prefill_tokens) if decodes else room
        prefills = self._continue_prefills(budget, preempted)
        budget -= sum(advance.num_tokens for advance in prefills)
        if not preempted:
            prefills += self._admit(budget)
        advances = tuple(advance for advance in decodes + prefills if advance.sequence not in preempted)
        return Schedule(advances, tuple(preempted))

    def _schedule_decodes(self, preempted: list[Sequence]) -> list[Advance]:
        advances: list[Advance] = []
        for sequence in list(self.running):
            if len(advances) == self._limits.max_step_tokens:
                break
            if sequence.num_pending == 1 and self._make_room(sequence, 1, preempted):
                advances.append(Advance(sequence, 1))
        return advances

    def _continue_prefills(self, budget: int, preempted: list[Sequence]) -> list[Advance]:
        advances: list[Advance] = []
        for sequence in list(self.running):
            count = min(sequence.num_pending, budget)
            if sequence.num_pending > 1 and count > 0 and self._make_room(sequence, count, preempted):
                advances.append(Advance(sequence, count))
                budget -= count
        return advances

    def _admit(self, budget: int) -> list[Advance]:
        """Starts waiting sequences, in order, each only where its whole prompt will find room."""
        advances: list[Advance] = []
        while self.waiting and budget > 0 and len(self.running) < self._limits.max_sequences:
            sequence = self.waiting[0]
            if not self._kv_cache.can_hold(sequence, len(sequence.token_ids) + self._promised()):
                break
            self.running.append(self.waiting.popleft())
            count = min(sequence.num_pending, budget)
            self._kv_cache.grow(sequence, count)
            advances.append(Advance(sequence, count))
            budget -= count
        return advances

    def _promised(self) -> int:
        """Tokens of running prefills, rounded up to blocks, that still have to find their blocks."""
        size = self._kv_cache.block_size
        return sum(
            (-(-len(sequence.token_ids) // size) - len(sequence.block_table)) * size
            for sequence in self.running
            if sequence.num_pending > 1
        )

    def _make_room(self, sequence: Sequence, count: int, preempted: list[Sequence]) -> bool:
        """Finds blocks for `count` more tokens, at the cost of the newest; False where that is itself."""
        if sequence in preempted:
            return False
        while not self._kv_cache.grow(sequence, sequence.num_computed + count):
            victim = self.running.pop()
            self._kv_cache.release(victim)
            self.waiting.appendleft(victim)
            preempted.append(victim)
            if victim is sequence:
                return False
        return True
