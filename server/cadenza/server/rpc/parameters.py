"""Sampling parameters from the wire to the engine's terms; what cannot be honoured is refused."""

import dataclasses
import math
import secrets

from cadenza.server.engine.request import Request, SamplingParams
from cadenza.server.errors import InvalidRequestError, Reason
from cadenza.server.models import ServedModel
from cadenza.server.rpc.prompt import check_token_ids
from cadenza.v1 import completion_pb2 as pb

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 64

_INT32_MAX = 2**31 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Range:
    """The values a field may have; `low` itself only where it is not open."""

    low: float
    high: float
    default: float
    low_is_open: bool = False
    advice: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_is_open else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.low_is_open else 'from'} {self.low:g} to {self.high:g}"


_RANGES = {
    "temperature": _Range(0, 100, 1, advice="; 0 is greedy"),
    "top_k": _Range(0, _INT32_MAX, 0, advice="; 0 keeps all tokens"),
    "top_p": _Range(0, 1, 1, low_is_open=True, advice="; 1 keeps all tokens"),
    "min_p": _Range(0, 1, 0, advice="; 0 keeps all tokens"),
}
# Fields that are not honoured yet, with the value that asks for nothing.
_NEUTRAL = {
    "n": 1,
    "echo": False,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "priority": 0,
}


def read_request(
    parameters: pb.CompletionParameters,
    prompt_token_ids: tuple[int, ...],
    model: ServedModel,
    *,
    request_id: str,
    arrival: float,
    deadline: float,
) -> Request:
    """The engine's request; times in seconds on its clock. Raises InvalidRequestError."""
    _refuse_unimplemented(parameters)
    check_token_ids(parameters.stop_token_ids, "parameters.stop_token_ids", model)
    manifest = model.artifact.manifest
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt_token_ids,
        max_tokens=_max_tokens(parameters, model, len(prompt_token_ids)),
        arrival_time=arrival,
        sampling=SamplingParams(
            temperature=_number(parameters, "temperature"),
            top_k=int(_number(parameters, "top_k")),
            top_p=_number(parameters, "top_p"),
            min_p=_number(parameters, "min_p"),
            seed=parameters.seed if parameters.HasField("seed") else secrets.randbits(64),
        ),
        stop=_stops(parameters),
        stop_token_ids=frozenset(parameters.stop_token_ids),
        eos_token_ids=frozenset() if parameters.ignore_eos else frozenset(manifest.tokenizer.eos_token_ids),
        deadline=deadline,
    )


def _number(parameters: pb.CompletionParameters, field: str) -> float:
    allowed = _RANGES[field]
    if not parameters.HasField(field):  # type: ignore[arg-type]
        return allowed.default
    value: float = getattr(parameters, field)
    if value not in allowed:
        raise _out_of_range(field, f"{value:g}", str(allowed), allowed.advice)
    return value


def _max_tokens(parameters: pb.CompletionParameters, model: ServedModel, prompt_tokens: int) -> int:
    room = model.max_context - prompt_tokens
    if not parameters.HasField("max_tokens"):
        return min(model.artifact.manifest.default_max_tokens or room, room)
    if not 1 <= parameters.max_tokens <= room:
        context = f": {model.max_context} of context less {prompt_tokens} of prompt"
        raise _out_of_range("max_tokens", str(parameters.max_tokens), f"from 1 to {room}", context)
    return parameters.max_tokens


def _stops(parameters: pb.CompletionParameters) -> tuple[str, ...]:
    _check_count("stop", len(parameters.stop), MAX_STOPS)
    _check_count("stop_token_ids", len(parameters.stop_token_ids), MAX_STOP_TOKEN_IDS)
    for index, stop in enumerate(parameters.stop):
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise _out_of_range(
                f"stop[{index}]",
                f"{len(stop)} characters long",
                f"from 1 to {MAX_STOP_CHARACTERS} characters",
            )
    return tuple(parameters.stop)


def _check_count(field: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidRequestError(
            Reason.TOO_MANY_STOPS,
            f"parameters.{field}",
            f"parameters.{field} has {count} entries; at most {most} are allowed: send fewer",
            metadata={"count": str(count), "maximum": str(most)},
        )


def _refuse_unimplemented(parameters: pb.CompletionParameters) -> None:
    asked = [name for name, neutral in _NEUTRAL.items() if _differs(parameters, name, neutral)]
    if parameters.HasField("logprobs"):
        asked.append("logprobs")
    if parameters.logit_bias:
        asked.append("logit_bias")
    for name in asked:
        neutral = f" or send {_NEUTRAL[name]}" if name in _NEUTRAL else ""
        raise InvalidRequestError(
            Reason.UNIMPLEMENTED_FIELD,
            f"parameters.{name}",
            f"parameters.{name} is not implemented by this server yet; leave it out{neutral}",
        )


def _differs(parameters: pb.CompletionParameters, name: str, neutral: float) -> bool:
    value: float = getattr(parameters, name)
    return parameters.HasField(name) and (math.isnan(value) or value != neutral)  # type: ignore[arg-type]


def _out_of_range(field: str, given: str, allowed: str, advice: str = "") -> InvalidRequestError:
    path = f"parameters.{field}"
    return InvalidRequestError(
        Reason.FIELD_OUT_OF_RANGE,
        path,
        f"{path} is {given}; it must be {allowed}{advice}",
        metadata={"value": given, "allowed": allowed},
    )
