"""A runner whose tokens a reader computes in the head: after each letter comes the next, after z the end.

Tests hold it before a step, let it make some steps, or make it fail.
"""

import threading
from collections.abc import Mapping

from cadenza.server.runner.base import RunnerError, RunnerLimits, StepBatch, StepResult

END = 257
"""The end-of-sequence token of the tests' tokenizer; ids below 256 are bytes."""
LIMITS = RunnerLimits(block_size=4, num_blocks=64, max_step_tokens=64, max_sequences=4, max_context=128)
WAIT_SECONDS = 20


class ScriptedRunner:
    """Implements Runner. `successor` changes what comes after a token."""

    def __init__(self, successor: Mapping[int, int] | None = None, limits: RunnerLimits = LIMITS) -> None:
        self._limits = limits
        self._successor = {ord("z"): END, **(successor or {})}
        self._changed = threading.Condition()
        self._allowed: float = float("inf")
        self._failing = False
        self.begun = 0
        """Steps that the engine has asked for."""
        self.batch_sizes: list[int] = []
        """Sequences in each step."""
        self.closed = False

    @property
    def limits(self) -> RunnerLimits:
        return self._limits

    def hold(self) -> None:
        """No step ends until it is allowed to."""
        with self._changed:
            self._allowed = 0

    def allow(self, steps: float = float("inf")) -> None:
        """Lets so many more steps end."""
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    def fail(self) -> None:
        """The step that is held, or the next, raises."""
        with self._changed:
            self._failing = True
            self._changed.notify_all()

    def wait_for_step(self, number: int) -> None:
        """Blocks until the engine has asked for that many steps."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.begun >= number, WAIT_SECONDS):
                raise TimeoutError(f"step {number} has not begun; {self.begun} have")

    def step(self, batch: StepBatch) -> StepResult:
        with self._changed:
            self.begun += 1
            self.batch_sizes.append(len(batch.slices))
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._failing or self._allowed > 0, WAIT_SECONDS):
                raise TimeoutError("a held step was never allowed to end")
            if self._failing:
                raise RunnerError("the scripted failure")
            self._allowed -= 1
        return StepResult([self._next(s.token_ids[-1]) if s.sampling else -1 for s in batch.slices])

    def close(self) -> None:
        self.closed = True

    def _next(self, token_id: int) -> int:
        return self._successor.get(token_id, (token_id + 1) % 256)
