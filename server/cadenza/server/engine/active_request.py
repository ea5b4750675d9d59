"""A request in the engine: its choices, and the events that their tokens become."""

import dataclasses
import math
from collections.abc import Sequence as ReadOnlyList

from cadenza.server.engine.request import Finished, FinishReason, Progress, Request, Timing, TokenLogprob
from cadenza.server.engine.sequence import Sequence


@dataclasses.dataclass(slots=True, eq=False)
class ActiveRequest:
    """What the engine knows of a request. Times are seconds on its clock, NaN before they are known."""

    request: Request
    number: int
    """Its place in the order of arrival."""
    sequences: list[Sequence] = dataclasses.field(default_factory=list)
    """The choices that exist and have not ended."""
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    first_step_time: float = math.nan
    first_token_time: float = math.nan
    last_token_time: float = math.nan

    @property
    def started(self) -> bool:
        """Whether it has been in a step."""
        return not math.isnan(self.first_step_time)

    def take_prompt_logprobs(
        self, sequence: Sequence, start: int, logprobs: ReadOnlyList[TokenLogprob]
    ) -> tuple[tuple[TokenLogprob, ...], ReadOnlyList[TokenLogprob]]:
        """Parts what a slice that began at `start` tells, now that it is committed.

        First the prompt's tokens that were not handed out yet, then the new tokens.
        """
        if not sequence.wants_prompt_logprobs:
            return (), logprobs
        count = min(sequence.num_computed, sequence.prompt_length - 1) - start
        fresh = tuple(logprobs[sequence.num_prompt_logprobs - start : count])
        sequence.num_prompt_logprobs += len(fresh)
        return fresh, logprobs[count:]

    def append(
        self,
        sequence: Sequence,
        token_ids: ReadOnlyList[int],
        now: float,
        logprobs: ReadOnlyList[TokenLogprob] = (),
        prompt_logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Progress:
        """Adds generated tokens to a choice, up to one that ends it: then the event has a finish_reason.

        logprobs are of token_ids, where they were asked for.
        """
        if not self.completion_tokens:
            self.first_token_time = now
        self.last_token_time = now
        text, count = "", 0
        reason: FinishReason | None = None
        while reason is None and count < len(token_ids):
            piece, reason = _append(sequence, token_ids[count])
            text += piece
            count += 1
        self.completion_tokens += count
        return Progress(
            self.request.request_id,
            sequence.choice,
            tuple(token_ids[:count]),
            text,
            tuple(logprobs[:count]),
            prompt_logprobs,
            reason,
        )

    def finished(self) -> Finished:
        """The request's last event."""
        return Finished(
            self.request.request_id,
            prompt_tokens=len(self.request.prompt_token_ids),
            cached_prompt_tokens=self.cached_prompt_tokens,
            completion_tokens=self.completion_tokens,
            timing=Timing(
                arrival=self.request.arrival_time,
                first_step=self.first_step_time,
                first_token=self.first_token_time,
                last_token=self.last_token_time,
            ),
        )


def _append(sequence: Sequence, token_id: int) -> tuple[str, FinishReason | None]:
    """Adds a token; returns the text that became safe to show, and why the sequence ends, if it does."""
    sequence.token_ids.append(token_id)
    reason = _token_reason(sequence.request, token_id)
    text = "" if reason else sequence.text.append(token_id)
    reason = reason or _text_reason(sequence)
    if reason is not None:
        text += sequence.text.flush()
    return text, reason


def _token_reason(request: Request, token_id: int) -> FinishReason | None:
    if token_id in request.eos_token_ids:
        return FinishReason.STOP
    if token_id in request.stop_token_ids:
        return FinishReason.STOP_TOKEN
    return None


def _text_reason(sequence: Sequence) -> FinishReason | None:
    if sequence.text.stopped:
        return FinishReason.STOP
    if sequence.num_generated == sequence.request.max_tokens:
        return FinishReason.LENGTH
    return None
