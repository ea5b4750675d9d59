"""The engine's answers as wire messages."""

from google.protobuf.duration_pb2 import Duration

from cadenza.server.engine.request import Finished, FinishReason, Progress, Timing
from cadenza.server.models import ServedModel
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1.manifest_pb2 import Precision

_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
}


def stream_response(part: Progress | Finished, request_id: str, model: str) -> pb.StreamCompletionResponse:
    """One message of a stream; the last carries finish reason, usage and timing."""
    if isinstance(part, Progress):
        return pb.StreamCompletionResponse(
            request_id=request_id,
            model=model,
            choices=(pb.Choice(text=part.text, token_ids=part.token_ids),),
        )
    return pb.StreamCompletionResponse(
        request_id=request_id,
        model=model,
        choices=(_last_choice(part),),
        usage=_usage(part),
        timing=_timing(part.timing),
    )


def create_response(whole: Finished, request_id: str, model: str) -> pb.CreateCompletionResponse:
    """The answer to a unary call."""
    return pb.CreateCompletionResponse(
        request_id=request_id,
        model=model,
        choices=(_last_choice(whole),),
        usage=_usage(whole),
        timing=_timing(whole.timing),
    )


def model_message(model: ServedModel) -> pb.Model:
    """What a model says of itself."""
    manifest = model.artifact.manifest
    precision = Precision.Name(manifest.cpu.precision).removeprefix("PRECISION_").lower()
    return pb.Model(
        name=model.name,
        version=model.artifact.version,
        family=manifest.family,
        precision=precision,
        parameter_count=manifest.parameter_count,
        vocabulary_size=manifest.decoder.vocabulary_size,
        max_context=model.max_context,
        default_max_tokens=manifest.default_max_tokens or model.max_context,
        has_chat_template=model.chat_template is not None,
        eos_token_ids=manifest.tokenizer.eos_token_ids,
    )


def _last_choice(finished: Finished) -> pb.Choice:
    return pb.Choice(
        text=finished.text,
        token_ids=finished.token_ids,
        finish_reason=_FINISH_REASONS[finished.finish_reason],
    )


def _usage(finished: Finished) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=finished.prompt_tokens,
        cached_prompt_tokens=finished.cached_prompt_tokens,
        completion_tokens=finished.completion_tokens,
    )


def _timing(timing: Timing) -> pb.Timing:
    return pb.Timing(
        queue=_duration(timing.first_step - timing.arrival),
        prefill=_duration(timing.first_token - timing.first_step),
        decode=_duration(timing.last_token - timing.first_token),
        time_to_first_token=_duration(timing.first_token - timing.arrival),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
