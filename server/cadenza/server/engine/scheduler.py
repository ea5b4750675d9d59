"""Decides what each step advances: which sequences, by how many tokens.

The scheduler knows no phases. A sequence has pending tokens, one in decode, many in prefill or after a
preemption, and a step hands out a budget of tokens: first to sequences that decode, so that their streams
go on, then to those in prefill, oldest first, then to those that wait. Beside streams long prompts go in
pieces, one at a time; short ones, for which nobody waits long, may pass them. Sequences that decode may have
drafts of their next tokens checked with what is left of the step then (speculation.py); drafts take no KV
blocks. The scheduler has no clock and does no input or output: the same calls give the same schedules.

Every sequence comes to its end. When KV blocks run out, the running sequence of the greatest `rank` gives
way and is recomputed later. So the one of the least rank never does: it always finds blocks, and a budget, as
those before it in the list are finitely many. Only a higher priority can take its place, and not for ever:
what has waited `overdue_seconds` in all goes first in the queue, where nothing passes it, and once it runs it
ranks before everything that was not overdue.
"""

import dataclasses

from cadenza.server.engine.fair_share import FairShare
from cadenza.server.engine.kv_cache import KVCache
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.schedule import POSITIONS_PER_TOKEN, Advance, Schedule
from cadenza.server.engine.sequence import Sequence
from cadenza.server.engine.speculation import Speculation
from cadenza.server.engine.waiting import WaitingQueue

PREFILL_TOKENS_PER_DECODE = 1.5
"""Beside many decodes a step is long anyway: so many prefill tokens for each make it about twice as long."""


@dataclasses.dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What a step may hold."""

    max_step_tokens: int
    max_sequences: int
    takes_drafts: bool = True
    """Whether the runner can check drafts."""


class _PrefillBudget:
    """How many more prefill tokens a step may have, and how many of them may be pieces of long prompts.

    A token of a piece that begins at position p counts 1 + p / POSITIONS_PER_TOKEN times among the pieces, so
    that streams pause no longer at the end of a long prompt than at its beginning.
    """

    def __init__(self, tokens: int, pieces: int | None) -> None:
        """`pieces`: None where no stream waits for the step."""
        self.left = tokens
        self._pieces = pieces

    def offer(self, sequence: Sequence) -> int:
        """How many of its pending tokens the sequence may have."""
        most = min(sequence.num_pending, self.left)
        if self._pieces is None or not sequence.goes_in_pieces:
            return most
        affordable = round(self._pieces * POSITIONS_PER_TOKEN / (POSITIONS_PER_TOKEN + sequence.num_computed))
        return min(most, max(1, affordable) if self._pieces else 0)

    def spend(self, sequence: Sequence, count: int) -> None:
        """Takes the sequence's tokens off; behind a long prompt that is not done no other one has a piece."""
        self.left -= count
        if self._pieces is not None and sequence.goes_in_pieces:
            extra = count * sequence.num_computed // POSITIONS_PER_TOKEN
            whole = count == sequence.num_pending
            self._pieces = max(0, self._pieces - count - extra) if whole else 0


class Scheduler:
    """Owns the queues. A sequence waits or runs; while it waits it may share blocks, but not write any."""

    def __init__(self, limits: SchedulerLimits, options: EngineOptions, kv_cache: KVCache) -> None:
        self._limits = limits
        self._options = options
        self._kv_cache = kv_cache
        most_drafts = options.speculation_tokens if limits.takes_drafts else 0
        self._speculation = Speculation(most_drafts, kv_cache.block_size)
        self._fair_share = FairShare(options.client_weights)
        self.waiting = WaitingQueue(self._fair_share)
        self.running: list[Sequence] = []
        """In the order in which they began to run."""

    def add(self, sequence: Sequence) -> None:
        """Lets a new sequence wait for its turn."""
        self._fair_share.enter(sequence.request.client)
        sequence.patience = self._options.overdue_seconds
        self.waiting.add(sequence, sequence.request.arrival_time)

    def fork(self, parent: Sequence, child: Sequence, now: float) -> None:
        """Lets another choice of a request wait whose prompt `parent` has just computed."""
        self._fair_share.enter(child.request.client)
        self._kv_cache.fork(parent, child)
        child.patience = parent.patience
        child.begun = True
        self.waiting.add(child, now)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence and frees its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._kv_cache.release(sequence)
        self._fair_share.leave(sequence.request.client)

    def schedule(self, now: float) -> Schedule:
        """Plans the step that begins at `now`; it is empty only where nothing waits or runs."""
        preempted: list[Sequence] = []
        decodes = self._schedule_decodes(preempted, now)
        room = self._limits.max_step_tokens - len(decodes)
        pieces = max(self._options.mixed_prefill_tokens, int(PREFILL_TOKENS_PER_DECODE * len(decodes)))
        budget = _PrefillBudget(room, pieces if decodes else None)
        prefills = self._continue_prefills(budget, preempted, now)
        if not preempted:
            prefills += self._admit(budget, preempted, now)
        advances = decodes + prefills
        if preempted:
            advances = [advance for advance in advances if advance.sequence not in preempted]
        room -= sum(advance.num_tokens for advance in prefills)
        advances = self._speculation.add_drafts(advances, room)
        for advance in advances:
            self._fair_share.charge(advance.sequence.request.client, advance.num_tokens)
        return Schedule(tuple(advances), tuple(preempted))

    def accept(self, sequence: Sequence, num_drafts: int) -> None:
        """So many of a step's drafts became tokens of the sequence: its client has got them computed."""
        self._fair_share.charge(sequence.request.client, num_drafts)

    def _schedule_decodes(self, preempted: list[Sequence], now: float) -> list[Advance]:
        advances: list[Advance] = []
        for sequence in list(self.running):
            if len(advances) == self._limits.max_step_tokens:
                break
            if sequence.num_pending == 1 and self._make_room(sequence, 1, preempted, now):
                advances.append(Advance(sequence, 1))
        return advances

    def _continue_prefills(
        self, budget: _PrefillBudget, preempted: list[Sequence], now: float
    ) -> list[Advance]:
        advances: list[Advance] = []
        for sequence in list(self.running):
            count = budget.offer(sequence)
            if sequence.num_pending > 1 and count > 0 and self._make_room(sequence, count, preempted, now):
                advances.append(Advance(sequence, count))
                budget.spend(sequence, count)
        return advances

    def _make_room(self, sequence: Sequence, count: int, preempted: list[Sequence], now: float) -> bool:
        """Finds blocks for `count` more tokens; False where the sequence itself has to give way.

        First those that wait lose what they share, then running sequences give way, the greatest rank first.
        A sequence that is left alone finds room: no request is longer than the cache.
        """
        if sequence in preempted:
            return False
        while not self._kv_cache.grow(sequence, sequence.num_computed + count):
            holders = self._holders()
            if self._kv_cache.releasable(holders):
                self._kv_cache.release(holders[0])
                continue
            victim = max(self.running, key=lambda running: running.rank)
            self._preempt(victim, preempted, now)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence, preempted: list[Sequence], now: float) -> None:
        self._kv_cache.release(sequence)
        self.running.remove(sequence)
        self.waiting.add(sequence, now)
        preempted.append(sequence)

    def _holders(self) -> list[Sequence]:
        """Waiting sequences that share blocks, the greatest rank first."""
        holders = [sequence for sequence in self.waiting if sequence.block_table]
        return sorted(holders, key=lambda holder: holder.rank, reverse=True)

    def _admit(self, budget: _PrefillBudget, preempted: list[Sequence], now: float) -> list[Advance]:
        """Starts waiting sequences, in order, each only where all its tokens find room.

        A long prompt that can have no piece now is passed by short ones; one that finds no room is not.
        """
        advances: list[Advance] = []
        for sequence in self.waiting.in_turn(now) if budget.left else ():
            if budget.left == 0 or not self._has_turn():
                break
            found = self._kv_cache.find(sequence)
            to_compute = sequence.num_pending - len(found) * self._kv_cache.block_size
            sequence.goes_in_pieces = to_compute > self._options.short_prompt_tokens
            if budget.offer(sequence) == 0:
                continue
            victims = self._in_the_way(sequence, found)
            if victims is None:
                break
            for victim in victims:
                if victim in self.running:
                    self._preempt(victim, preempted, now)
                else:
                    self._kv_cache.release(victim)
            self.waiting.pop(sequence, now)
            self.running.append(sequence)
            self._kv_cache.attach(sequence, found)
            count = budget.offer(sequence)
            self._kv_cache.grow(sequence, sequence.num_computed + count)
            advances.append(Advance(sequence, count))
            budget.spend(sequence, count)
        return advances

    def _has_turn(self) -> bool:
        """Whether anyone who waits may get a place in the running batch."""
        if len(self.running) < self._limits.max_sequences:
            return True
        highest = self.waiting.highest_priority()
        return highest is not None and any(_may_be_preempted(running, highest) for running in self.running)

    def _in_the_way(self, candidate: Sequence, found: list[int]) -> list[Sequence] | None:
        """Whose blocks or place the candidate needs before it can run; None where it has to wait.

        Those that wait behind it may lose what they share; those that run give way to a higher priority.
        """
        lower = [other for other in self.running if _may_be_preempted(other, candidate.request.priority)]
        lower.sort(key=lambda running: running.rank, reverse=True)
        victims: list[Sequence] = []
        if len(self.running) >= self._limits.max_sequences:
            if not lower:
                return None
            victims.append(lower.pop(0))
        others = (other for other in [*self._holders(), *lower] if other is not candidate)
        while not self._kv_cache.fits(candidate, found, victims, reserved=self._reserved(victims)):
            victim = next(others, None)
            if victim is None:
                return None
            victims.append(victim)
        return victims

    def _reserved(self, victims: list[Sequence]) -> int:
        """Blocks that the prompts which are being computed still need, but those of `victims`."""
        prefills = (running for running in self.running if running.num_pending > 1)
        return sum(self._kv_cache.missing(running) for running in prefills if running not in victims)


def _may_be_preempted(running: Sequence, priority: int) -> bool:
    return running.request.priority < priority and not running.protected
