"""One request's answer as wire messages."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.duration_pb2 import Duration

from cadenza.server.engine.request import Finished, FinishReason, Progress, Timing, TokenLogprob
from cadenza.server.models import ServedModel
from cadenza.server.streams import Part
from cadenza.server.tokenizer import Tokenizer
from cadenza.v1 import completion_pb2 as pb

_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Echo:
    """The prompt, where the answer is to begin with it."""

    prompt_token_ids: tuple[int, ...]
    has_bos: bool
    """Whether the server put a beginning-of-sequence token before it, which is not echoed."""

    def text(self, tokenizer: Tokenizer) -> str:
        """What every choice begins with."""
        return tokenizer.decode(self.prompt_token_ids[self.has_bos :])


def summary(finished: Sequence[Finished], reasons: Iterable[FinishReason]) -> dict[str, object]:
    """What the log says of a call that these requests answered, their choices ended for these reasons."""
    return {
        "prompt_tokens": sum(one.prompt_tokens for one in finished),
        "cached_prompt_tokens": sum(one.cached_prompt_tokens for one in finished),
        "completion_tokens": sum(one.completion_tokens for one in finished),
        "finish_reason": ",".join(reason.value for reason in reasons),
        "time_to_first_token": round(min(one.timing.time_to_first_token for one in finished), 6),
    }


class Reply:
    """Writes the messages of one answer, in order. `log` is what the call's log line says of it."""

    def __init__(self, request_id: str, model: ServedModel, echo: Echo | None) -> None:
        self._request_id = request_id
        self._model = model.name
        self._version = model.version
        self._tokenizer = model.tokenizer
        self._echo = echo
        self._begun: set[int] = set()
        self._finish_reasons: dict[int, FinishReason] = {}
        self.log: dict[str, object] = {}

    def message(self, part: Part) -> pb.StreamCompletionResponse:
        """One message of a stream; the last carries usage and timing."""
        message = pb.StreamCompletionResponse(
            request_id=self._request_id,
            model=self._model,
            model_version=self._version,
            choices=self._choices(part),
        )
        self._end(part, message)
        return message

    def whole(self, part: Part) -> pb.CreateCompletionResponse:
        """The answer to a unary call."""
        message = pb.CreateCompletionResponse(
            request_id=self._request_id,
            model=self._model,
            model_version=self._version,
            choices=self._choices(part),
        )
        self._end(part, message)
        return message

    def _end(self, part: Part, message: pb.StreamCompletionResponse | pb.CreateCompletionResponse) -> None:
        if part.finished is None:
            return
        message.usage.CopyFrom(_usage(part.finished))
        message.timing.CopyFrom(_timing(part.finished.timing))
        self.log = summary([part.finished], [reason for _, reason in sorted(self._finish_reasons.items())])

    def _choices(self, part: Part) -> Iterator[pb.Choice]:
        for progress in part.choices:
            choice = pb.Choice(index=progress.choice, text=progress.text, token_ids=progress.token_ids)
            if progress.finish_reason is not None:
                self._finish_reasons[progress.choice] = progress.finish_reason
                choice.finish_reason = _FINISH_REASONS[progress.finish_reason]
            if progress.logprobs or progress.prompt_logprobs:
                self._add_logprobs(choice, progress)
            if self._echo is not None and progress.choice not in self._begun:
                self._begun.add(progress.choice)
                choice.text = self._echo.text(self._tokenizer) + choice.text
            yield choice

    def _add_logprobs(self, choice: pb.Choice, progress: Progress) -> None:
        if self._echo is not None and progress.choice == 0 and 0 not in self._begun:
            first = self._echo.prompt_token_ids[0]
            choice.logprobs.prompt.add(token_id=first, text=self._tokenizer.decode((first,)))
        choice.logprobs.prompt.extend(map(self._token_logprob, progress.prompt_logprobs))
        choice.logprobs.completion.extend(map(self._token_logprob, progress.logprobs))

    def _token_logprob(self, token: TokenLogprob) -> pb.TokenLogprob:
        return pb.TokenLogprob(
            token_id=token.token_id,
            text=self._tokenizer.decode((token.token_id,)),
            logprob=token.logprob,
            alternatives=self._alternatives(token.alternatives),
        )

    def _alternatives(self, alternatives: Iterable[tuple[int, float]]) -> Iterator[pb.TokenLogprob]:
        for token_id, logprob in alternatives:
            text = self._tokenizer.decode((token_id,))
            yield pb.TokenLogprob(token_id=token_id, text=text, logprob=logprob)


def _usage(finished: Finished) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=finished.prompt_tokens,
        cached_prompt_tokens=finished.cached_prompt_tokens,
        completion_tokens=finished.completion_tokens,
    )


def _timing(timing: Timing) -> pb.Timing:
    return pb.Timing(
        queue=_duration(timing.queue),
        prefill=_duration(timing.prefill),
        decode=_duration(timing.decode),
        time_to_first_token=_duration(timing.time_to_first_token),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
