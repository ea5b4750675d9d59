"""Bodies as CompletionParameters, so that the same checks hold for every API."""

from cadenza.server.errors import InvalidRequestError, Reason
from cadenza.server.http.bodies import ChatBody, CommonBody, CompletionBody
from cadenza.server.rpc.parameters import RANGES, check_range
from cadenza.v1 import completion_pb2 as pb

_AS_THEY_ARE = ("max_tokens", "n", "ignore_eos", "cache_prompt")
_UINT64 = 2**64


def completion_parameters(body: CompletionBody) -> pb.CompletionParameters:
    """Those of a completion. Raises InvalidRequestError."""
    parameters = _common(body)
    if body.logprobs is not None:
        check_range("logprobs", body.logprobs)
        parameters.logprobs = body.logprobs
    parameters.echo = body.echo or False
    return parameters


def chat_parameters(body: ChatBody) -> pb.CompletionParameters:
    """Those of a chat; `logprobs` is how many alternatives there are. Raises InvalidRequestError."""
    parameters = _common(body)
    if body.max_completion_tokens is not None:
        parameters.max_tokens = body.max_completion_tokens
    if body.logprobs:
        parameters.logprobs = body.top_logprobs or 0
    elif body.top_logprobs:
        raise InvalidRequestError(
            Reason.FIELD_OUT_OF_RANGE,
            "top_logprobs",
            f"top_logprobs is {body.top_logprobs} without logprobs; set logprobs to true, or leave it out",
        )
    return parameters


def _common(body: CommonBody) -> pb.CompletionParameters:
    parameters = pb.CompletionParameters()
    for name in RANGES:
        value = None if name == "logprobs" else getattr(body, name)
        if value is not None:
            check_range(name, value)
            setattr(parameters, name, value)
    for name in _AS_THEY_ARE:
        if (value := getattr(body, name)) is not None:
            setattr(parameters, name, value)
    if body.seed is not None:
        parameters.seed = body.seed % _UINT64
    parameters.stop.extend([body.stop] if isinstance(body.stop, str) else body.stop or ())
    parameters.stop_token_ids.extend(body.stop_token_ids or ())
    for token_id, bias in (body.logit_bias or {}).items():
        parameters.logit_bias[int(token_id)] = bias
    return parameters
