"""From messages to results: pure functions that both clients share."""

from google.protobuf.duration_pb2 import Duration

from cadenza.client._results import (
    Choice,
    Completion,
    CompletionChunk,
    FinishReason,
    Logprobs,
    Model,
    Timing,
    TokenCount,
    TokenLogprob,
    Usage,
)
from cadenza.v1 import completion_pb2 as pb

_FINISH_REASONS = {
    pb.FINISH_REASON_UNSPECIFIED: None,
    pb.FINISH_REASON_STOP: FinishReason.STOP,
    pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    pb.FINISH_REASON_STOP_TOKEN: FinishReason.STOP_TOKEN,
}


def completion_from(response: pb.CreateCompletionResponse) -> Completion:
    """The answer of a unary call."""
    return Completion(
        id=response.request_id,
        model=response.model,
        choices=tuple(sorted(map(_choice, response.choices), key=lambda choice: choice.index)),
        usage=_usage(response.usage),
        timing=_timing(response.timing),
    )


def chunk_from(response: pb.StreamCompletionResponse) -> CompletionChunk:
    """One message of a stream."""
    return CompletionChunk(
        response.request_id,
        response.model,
        tuple([_choice(choice) for choice in response.choices]),
        _usage(response.usage) if response.HasField("usage") else None,
        _timing(response.timing) if response.HasField("timing") else None,
    )


def model_from(message: pb.Model) -> Model:
    """The description of a model."""
    return Model(
        name=message.name,
        version=message.version,
        family=message.family,
        precision=message.precision,
        parameter_count=message.parameter_count,
        vocabulary_size=message.vocabulary_size,
        max_context=message.max_context,
        default_max_tokens=message.default_max_tokens,
        has_chat_template=message.has_chat_template,
        eos_token_ids=tuple(message.eos_token_ids),
    )


def models_from(response: pb.ListModelsResponse) -> tuple[Model, ...]:
    """The models of a server, in its order."""
    return tuple(model_from(message) for message in response.models)


def token_count_from(response: pb.CountTokensResponse) -> TokenCount:
    """The count of a prompt's tokens, and the tokens."""
    return TokenCount(response.prompt_tokens, tuple(response.token_ids))


def _choice(message: pb.Choice) -> Choice:
    return Choice(
        message.index,
        message.text,
        tuple(message.token_ids),
        _FINISH_REASONS.get(message.finish_reason, FinishReason.UNKNOWN),
        _logprobs(message.logprobs) if message.HasField("logprobs") else None,
    )


def _logprobs(message: pb.Logprobs) -> Logprobs:
    return Logprobs(
        prompt=tuple(_token_logprob(token) for token in message.prompt),
        completion=tuple(_token_logprob(token) for token in message.completion),
    )


def _token_logprob(message: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        token_id=message.token_id,
        text=message.text,
        logprob=message.logprob if message.HasField("logprob") else None,
        alternatives=tuple(_token_logprob(token) for token in message.alternatives),
    )


def _usage(message: pb.Usage) -> Usage:
    return Usage(message.prompt_tokens, message.cached_prompt_tokens, message.completion_tokens)


def _timing(message: pb.Timing) -> Timing:
    return Timing(
        queue=_seconds(message.queue),
        prefill=_seconds(message.prefill),
        decode=_seconds(message.decode),
        time_to_first_token=_seconds(message.time_to_first_token),
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos * 1e-9
