"""From a schedule to what the runner gets."""

from array import array

from cadenza.server.engine.schedule import Advance, Schedule
from cadenza.server.engine.sequence import Sequence
from cadenza.server.runner.base import SequenceSlice, StepBatch

_NO_TOKENS = array("i")


def assemble(schedule: Schedule) -> StepBatch:
    """The batch with one slice for each advance, in order."""
    copies = [
        advance.sequence.block_copy
        for advance in schedule.advances
        if advance.sequence.block_copy is not None
    ]
    return StepBatch([_slice(advance) for advance in schedule.advances], copies)


def _slice(advance: Advance) -> SequenceSlice:
    sequence = advance.sequence
    start = sequence.num_computed
    end = start + advance.num_tokens
    tokens = sequence.token_ids
    sampling = sequence.sampling if end == len(tokens) else None
    needs_history = sampling is not None and sampling.needs_history
    targets = _targets(sequence, start, end) if sequence.wants_prompt_logprobs else _NO_TOKENS
    return SequenceSlice(
        token_ids=tokens[start:end] + advance.drafts,
        start=start,
        block_table=sequence.block_table[:],
        sampling=sampling,
        num_drafts=len(advance.drafts),
        history=tokens + advance.drafts if needs_history else _NO_TOKENS,
        prompt_length=sequence.prompt_length,
        targets=targets,
        target_alternatives=sequence.sampling.logprobs or 0 if targets else 0,
    )


def _targets(sequence: Sequence, start: int, end: int) -> "array[int]":
    """The prompt's tokens that follow those of the slice, where some are still without log-probabilities."""
    if end <= sequence.num_prompt_logprobs:
        return _NO_TOKENS
    return sequence.token_ids[start + 1 : min(end + 1, sequence.prompt_length)]
