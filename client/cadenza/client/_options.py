"""The keyword options of calls, and their check before anything is sent.

Types and shapes are checked here, for a message at the caller's own line; ranges are the server's to
refuse. For an option that is absent or None the client's default holds, and without one the server's.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict, get_type_hints

import grpc
import pydantic

from cadenza.client.errors import FieldViolation, InvalidOption


def _encodable(text: str) -> str:
    text.encode()
    return text


Text = Annotated[str, pydantic.AfterValidator(_encodable)]
"""A str that UTF-8 can encode: no lone surrogate."""
Int32 = Annotated[int, pydantic.Field(ge=-(2**31), lt=2**31)]
UInt64 = Annotated[int, pydantic.Field(ge=0, lt=2**64)]
Seconds = Annotated[float, pydantic.Field(gt=0)]
Retries = Annotated[int, pydantic.Field(ge=0, le=100)]
HeaderText = Annotated[str, pydantic.Field(pattern=r"^[\x21-\x7e]{1,128}$")]
"""1 to 128 printable ASCII characters, no space among them."""


class CallOptions(TypedDict, total=False):
    """Options of every call."""

    timeout: Seconds | None
    """Seconds until the call is given up, retries included; the client's where absent, inf for none."""
    request_id: HeaderText | None
    """The id under which the server logs the call; a random one where absent."""
    client_id: HeaderText | None
    """Between whom the server shares its work fairly; the client's own where absent."""
    max_retries: Retries | None
    """How often the call is tried again where that may help; the client's own where absent."""


class CompletionOptions(CallOptions, total=False):
    """Options of completions. What they mean and their ranges: CompletionParameters in completion.proto."""

    model: Text | None
    """The model's name; the client's where absent."""
    max_tokens: Int32 | None
    """Most tokens to generate."""
    temperature: float | None
    """Softmax temperature; 0 is greedy."""
    top_k: Int32 | None
    """Sample among the k most probable tokens; 0 is all."""
    top_p: float | None
    """Sample within the smallest set of tokens of at least this probability."""
    min_p: float | None
    """Leave out tokens less probable than this share of the most probable one."""
    seed: UInt64 | None
    """Makes sampling repeatable."""
    stop: Text | Sequence[Text] | None
    """Texts that end the completion; they are not part of it."""
    stop_token_ids: Sequence[Int32] | None
    """Tokens that end the completion, beside the model's own."""
    ignore_eos: bool | None
    """Go on after the model's end-of-sequence token."""
    n: Int32 | None
    """How many choices."""
    echo: bool | None
    """Begin the text with the prompt."""
    logprobs: Int32 | None
    """For each token give its log-probability and those of this many alternatives."""
    logit_bias: Mapping[Int32, float] | None
    """Added to the logits of these token ids."""
    repetition_penalty: float | None
    """Divides positive and multiplies negative logits of tokens seen before."""
    presence_penalty: float | None
    """Subtracted once from the logits of tokens generated before."""
    frequency_penalty: float | None
    """Subtracted per occurrence from the logits of tokens generated before."""
    priority: Int32 | None
    """Higher goes first."""
    cache_prompt: bool | None
    """Whether KV blocks may be taken from, and left to, other requests."""


def checker(options: type) -> type[pydantic.BaseModel]:
    """A strict model of a TypedDict: 1 is no bool, "1" no number, an unknown name an error."""
    fields: dict[str, Any] = {
        name: (hint, None) for name, hint in get_type_hints(options, include_extras=True).items()
    }
    config = pydantic.ConfigDict(strict=True, extra="forbid", protected_namespaces=())
    return pydantic.create_model(options.__name__, __config__=config, **fields)


_CALL = checker(CallOptions)
_COMPLETION = checker(CompletionOptions)


def checked_call_options(options: CallOptions) -> dict[str, Any]:
    """Options as given, without those that are None. Raises InvalidOption."""
    return _checked(_CALL, options)


def checked_completion_options(options: CompletionOptions) -> dict[str, Any]:
    """Options as given, without those that are None. Raises InvalidOption."""
    return _checked(_COMPLETION, options)


def _checked(model: type[pydantic.BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return model.model_validate(options).model_dump(exclude_none=True)
    except pydantic.ValidationError as error:
        raise invalid_option(error) from None


def refused(field: str, description: str) -> InvalidOption:
    """The exception for an argument that pydantic cannot judge."""
    return InvalidOption(
        f"{field}: {description}",
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="INVALID_OPTION",
        field_violations=[FieldViolation(field, description)],
    )


def invalid_option(
    error: pydantic.ValidationError, field: str = "", *, depth: int | None = None
) -> InvalidOption:
    """The SDK's exception for pydantic's; `field` is the path to what was checked, named to this depth."""
    violations = tuple(
        FieldViolation(
            _path(field, problem["loc"][:depth]), f"{problem['msg']}; given: {_shortened(problem['input'])}"
        )
        for problem in error.errors(include_url=False, include_context=False)
    )
    return InvalidOption(
        "; ".join(f"{violation.field}: {violation.description}" for violation in violations),
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="INVALID_OPTION",
        field_violations=violations,
    )


def _path(field: str, location: Sequence[int | str]) -> str:
    """A path as people write it: messages[0].role. What pydantic calls the arms of a union is left out."""
    for part in location:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part.isidentifier():
            field += f".{part}" if field else part
    return field


def _shortened(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
