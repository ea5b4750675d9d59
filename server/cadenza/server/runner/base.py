"""What the engine asks of a runner: advance sequences by some tokens and choose the next ones.

A runner owns the weights and the KV cache's memory; which block belongs to whom the engine decides.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from cadenza.server.engine.request import SamplingParams, TokenLogprob

NO_TOKEN = -1
"""In a StepResult: no token was asked for."""
NOT_FINITE = -2
"""In a StepResult: logits that this slice needed hold NaN or +infinity, or nothing above -infinity."""

MOST_ALTERNATIVES = 20
"""Most tokens whose log-probabilities come with a token's own."""


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
    takes_drafts: bool = True
    """Whether slices may have drafts. Only where a token's logits are the same in any batch."""


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
    """How to choose the token after the last of token_ids; None where none is wanted (a prefill goes on).

    With drafts the last of token_ids that is right counts.
    """
    history: Sequence[int] = ()
    """All tokens up to the last of token_ids, where sampling.needs_history; else empty."""
    prompt_length: int = 0
    """How many of history are the prompt's."""
    targets: Sequence[int] = ()
    """The tokens after the first len(targets) of token_ids, where their log-probabilities are wanted."""
    target_alternatives: int = 0
    """How many alternatives each of targets gets."""
    num_drafts: int = 0
    """How many of token_ids, the last ones, are guesses; only where `sampling` is given and targets are not.

    A draft is accepted where it is the token that `sampling` chooses in its place and all drafts before it
    are accepted. History goes to the last draft.
    """

    def num_accepted(self, choices: Sequence[int]) -> int:
        """How many drafts are accepted, by what was chosen in place of each."""
        drafts = self.token_ids[len(self.token_ids) - self.num_drafts :]
        pairs = enumerate(zip(drafts, choices, strict=False))
        return next((index for index, (draft, choice) in pairs if draft != choice), self.num_drafts)


@dataclasses.dataclass(frozen=True, slots=True)
class BlockCopy:
    """Copy a KV block, all layers, keys and values, before anything of the step is computed."""

    source: int
    target: int


@dataclasses.dataclass(frozen=True, slots=True)
class StepBatch:
    """The work of one step: at most max_sequences slices and max_step_tokens tokens.

    No block that one slice writes stands in another slice's table, unless copies say so first.
    """

    slices: Sequence[SequenceSlice]
    copies: Sequence[BlockCopy] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """One token id per slice, in order: NO_TOKEN where none was asked for, NOT_FINITE where there is none.

    Behind drafts it is the token behind the last that is accepted.
    """

    token_ids: Sequence[int]
    logprobs: Mapping[int, Sequence[TokenLogprob]] = dataclasses.field(default_factory=dict)
    """By index of the slice, where asked for: of its targets in order, accepted drafts, and its new token."""
    accepted: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """By index of the slice: how many of its drafts are accepted; those with none may be absent."""


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
    """A step could not be computed. What the step would have written is undefined; the rest of the KV cache,
    and the runner itself, are as before, unless its next steps fail too.
    """
