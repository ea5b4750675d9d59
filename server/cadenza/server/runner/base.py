"""What the engine asks of a runner: advance sequences by some tokens and choose the next ones.

A runner owns the weights and the KV cache's memory; which block belongs to whom the engine decides.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from cadenza.server.engine.request import SamplingParams


@dataclasses.dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What the runner can hold and do in one step."""

    block_size: int
    """Tokens in a KV block."""
    num_blocks: int
    max_step_tokens: int
    max_sequences: int
    max_context: int
    """Most positions of one sequence."""


@dataclasses.dataclass(frozen=True, slots=True)
class SequenceSlice:
    """Tokens of one sequence to advance in this step.

    They stand at positions start, start + 1, ...; block_table[i] holds positions
    [i * block_size, (i + 1) * block_size) and covers all of them. Keys and values of earlier positions
    are in the cache already.
    """

    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    sampling: SamplingParams | None
    """How to choose the token after the last of token_ids; None where none is wanted (a prefill goes on)."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepBatch:
    """The work of one step: at most max_sequences slices and max_step_tokens tokens."""

    slices: Sequence[SequenceSlice]


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """One token id per slice, in order; -1 where none was asked for."""

    token_ids: Sequence[int]


class Runner(Protocol):
    """Executes steps. Used by one thread at a time."""

    @property
    def limits(self) -> RunnerLimits:
        """What the runner can hold; constant."""

    def step(self, batch: StepBatch) -> StepResult:
        """Runs one step and returns when its tokens are known."""

    def close(self) -> None:
        """Gives back threads and memory; the runner is not used afterwards."""


class RunnerError(Exception):
    """A step could not be computed; the runner may be in any state."""
