"""Completion parameters from the wire to the engine's terms; what is outside its range is refused."""

import dataclasses
import secrets

from cadenza.server.admission import Arrival
from cadenza.server.engine.request import Request, SamplingParams
from cadenza.server.errors import InvalidRequestError, Reason
from cadenza.server.models import ServedModel
from cadenza.server.rpc.prompt import check_token_id, check_token_ids
from cadenza.v1 import completion_pb2 as pb

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 300

_INT32_MAX = 2**31 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The values a field may have; `low` itself only where it is not open."""

    low: float
    high: float
    default: float = 0
    low_is_open: bool = False
    advice: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_is_open else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.low_is_open else 'from'} {self.low:g} to {self.high:g}"


RANGES = {
    "temperature": Range(0, 100, 1, advice="; 0 is greedy"),
    "top_k": Range(0, _INT32_MAX, advice="; 0 keeps all tokens"),
    "top_p": Range(0, 1, 1, low_is_open=True, advice="; 1 keeps all tokens"),
    "min_p": Range(0, 1, advice="; 0 keeps all tokens"),
    "logprobs": Range(0, MAX_LOGPROBS, advice="; 0 gives the chosen token's alone"),
    "repetition_penalty": Range(0.1, 10, 1, advice="; 1 changes nothing"),
    "presence_penalty": Range(-2, 2, advice="; 0 changes nothing"),
    "frequency_penalty": Range(-2, 2, advice="; 0 changes nothing"),
    "priority": Range(-100, 100, advice="; higher goes first"),
}
LOGIT_BIAS = Range(-100, 100)


def read_priority(parameters: pb.CompletionParameters) -> int:
    """What decides about a place in the queue, before all else is read. Raises InvalidRequestError."""
    return int(_number(parameters, "priority"))


def check_range(field: str, value: float) -> None:
    """Raises InvalidRequestError where a field of RANGES may not have the value."""
    allowed = RANGES[field]
    if value not in allowed:
        raise _out_of_range(field, f"{value:g}", str(allowed), allowed.advice)


def read_request(
    parameters: pb.CompletionParameters,
    prompt_token_ids: tuple[int, ...],
    model: ServedModel,
    arrival: Arrival,
) -> Request:
    """The engine's request. Raises InvalidRequestError."""
    check_token_ids(parameters.stop_token_ids, "parameters.stop_token_ids", model)
    manifest = model.artifact.manifest
    return Request(
        request_id=arrival.request_id,
        prompt_token_ids=prompt_token_ids,
        max_tokens=_max_tokens(parameters, model, len(prompt_token_ids)),
        arrival_time=arrival.time,
        sampling=_sampling(parameters, model),
        n=_choices(parameters, model),
        prompt_logprobs=parameters.echo and parameters.HasField("logprobs"),
        stop=_stops(parameters),
        stop_token_ids=frozenset(parameters.stop_token_ids),
        eos_token_ids=frozenset() if parameters.ignore_eos else frozenset(manifest.tokenizer.eos_token_ids),
        priority=arrival.priority,
        client=arrival.client,
        cache_prompt=parameters.cache_prompt if parameters.HasField("cache_prompt") else True,
        deadline=arrival.deadline,
    )


def _sampling(parameters: pb.CompletionParameters, model: ServedModel) -> SamplingParams:
    logprobs = int(_number(parameters, "logprobs"))
    return SamplingParams(
        temperature=_number(parameters, "temperature"),
        top_k=int(_number(parameters, "top_k")),
        top_p=_number(parameters, "top_p"),
        min_p=_number(parameters, "min_p"),
        seed=parameters.seed if parameters.HasField("seed") else secrets.randbits(64),
        repetition_penalty=_number(parameters, "repetition_penalty"),
        presence_penalty=_number(parameters, "presence_penalty"),
        frequency_penalty=_number(parameters, "frequency_penalty"),
        logit_bias=_logit_bias(parameters, model),
        logprobs=logprobs if parameters.HasField("logprobs") else None,
    )


def _number(parameters: pb.CompletionParameters, field: str) -> float:
    if not parameters.HasField(field):  # type: ignore[arg-type]
        return RANGES[field].default
    value: float = getattr(parameters, field)
    check_range(field, value)
    return value


def _choices(parameters: pb.CompletionParameters, model: ServedModel) -> int:
    if not parameters.HasField("n"):
        return 1
    if not 1 <= parameters.n <= model.max_choices:
        raise _out_of_range("n", str(parameters.n), f"from 1 to {model.max_choices}")
    return parameters.n


def _max_tokens(parameters: pb.CompletionParameters, model: ServedModel, prompt_tokens: int) -> int:
    room = model.max_context - prompt_tokens
    if not parameters.HasField("max_tokens"):
        return min(model.artifact.manifest.default_max_tokens or room, room)
    if not 1 <= parameters.max_tokens <= room:
        context = f": {model.max_context} of context less {prompt_tokens} of prompt"
        raise _out_of_range("max_tokens", str(parameters.max_tokens), f"from 1 to {room}", context)
    return parameters.max_tokens


def _logit_bias(parameters: pb.CompletionParameters, model: ServedModel) -> tuple[tuple[int, float], ...]:
    biases = sorted(parameters.logit_bias.items())
    if len(biases) > MAX_LOGIT_BIAS:
        raise _out_of_range("logit_bias", f"{len(biases)} entries long", f"at most {MAX_LOGIT_BIAS} entries")
    for token_id, bias in biases:
        check_token_id(token_id, f"parameters.logit_bias[{token_id}]", model)
        if bias not in LOGIT_BIAS:
            raise _out_of_range(f"logit_bias[{token_id}]", f"{bias:g}", str(LOGIT_BIAS))
    return tuple(biases)


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


def _out_of_range(field: str, given: str, allowed: str, advice: str = "") -> InvalidRequestError:
    path = f"parameters.{field}"
    return InvalidRequestError(
        Reason.FIELD_OUT_OF_RANGE,
        path,
        f"{path} is {given}; it must be {allowed}{advice}",
        metadata={"value": given, "allowed": allowed},
    )
