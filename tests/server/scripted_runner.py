"""A runner whose tokens a reader computes in the head: after each letter comes the next, after z the end.

Choice 1 goes on by two letters, choice 2 by three, and so on. The log-probability of token t is -t. Tests
hold the runner before a step, let it make some steps, make it fail, or let NOT_FINITE follow a token.
"""

import threading
import time
from collections.abc import Mapping

from cadenza.server.engine.request import TokenLogprob
from cadenza.server.runner.base import (
    NO_TOKEN,
    RunnerError,
    RunnerLimits,
    SequenceSlice,
    StepBatch,
    StepResult,
)

END = 257
"""The end-of-sequence token of the tests' tokenizer; ids below 256 are bytes."""
LIMITS = RunnerLimits(
    block_size=4, num_blocks=64, max_step_tokens=64, max_sequences=4, max_context=128, takes_drafts=False
)
"""Without drafts, so that a test knows what every step brings."""
WAIT_SECONDS = 20


class ScriptedRunner:
    """Implements Runner. `successor` changes what comes after a token; a step takes `step_seconds`."""

    def __init__(
        self,
        successor: Mapping[int, int] | None = None,
        limits: RunnerLimits = LIMITS,
        step_seconds: float = 0.0,
    ) -> None:
        self._step_seconds = step_seconds
        self._limits = limits
        self._successor = {ord("z"): END, **(successor or {})}
        self._changed = threading.Condition()
        self._allowed: float = float("inf")
        self._failing: float = 0
        self.begun = 0
        """Steps that the engine has asked for."""
        self.batch_sizes: list[int] = []
        """Sequences in each step."""
        self.slices: list[SequenceSlice] = []
        """All slices of all steps."""
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

    def fail(self, steps: float = float("inf")) -> None:
        """The step that is held, or the next, raises, and so many in all."""
        with self._changed:
            self._failing = steps
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
            self.slices += batch.slices
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._failing > 0 or self._allowed > 0, WAIT_SECONDS):
                raise TimeoutError("a held step was never allowed to end")
            if self._failing > 0:
                self._failing -= 1
                raise RunnerError("the scripted failure")
            self._allowed -= 1
        time.sleep(self._step_seconds)
        chosen = [self._choose(one) for one in batch.slices]
        tokens = [found[-1] if found else NO_TOKEN for found in chosen]
        accepted = {index: len(found) - 1 for index, found in enumerate(chosen) if found}
        logprobs = {
            index: _logprobs(one, found)
            for index, (one, found) in enumerate(zip(batch.slices, chosen, strict=True))
        }
        told = {index: found for index, found in logprobs.items() if found}
        return StepResult(tokens, told, accepted)

    def close(self) -> None:
        self.closed = True

    def _choose(self, one: SequenceSlice) -> list[int]:
        """Accepted drafts and the token behind them; nothing where none is asked for."""
        if one.sampling is None:
            return []
        last = one.token_ids[len(one.token_ids) - one.num_drafts - 1 :]
        choice = one.sampling.choice
        choices = [self._successor.get(token_id, (token_id + 1 + choice) % 256) for token_id in last]
        return choices[: one.num_accepted(choices) + 1]


def _logprobs(one: SequenceSlice, tokens: list[int]) -> list[TokenLogprob]:
    found = [_logprob(target, one.target_alternatives) for target in one.targets]
    if one.sampling is not None and one.sampling.logprobs is not None:
        found += [_logprob(token, one.sampling.logprobs) for token in tokens]
    return found


def _logprob(token: int, alternatives: int) -> TokenLogprob:
    return TokenLogprob(token, -float(token), tuple((other, -float(other)) for other in range(alternatives)))
