"""The bodies of requests: OpenAI's fields, and those that other servers of its API have added.

Ranges are those of CompletionParameters: descriptions have them of the table that requests are held against.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cadenza.server.models import MAX_CHOICES
from cadenza.server.rpc.parameters import (
    LOGIT_BIAS,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_STOP_CHARACTERS,
    MAX_STOP_TOKEN_IDS,
    MAX_STOPS,
    RANGES,
)
from cadenza.server.rpc.prompt import ROLES

MAX_PROMPTS = 256
MAX_MESSAGES = 1024
_INT32 = 2**31 - 1

TokenId = Annotated[int, Field(ge=0, le=_INT32)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Bias = Annotated[float, Field(json_schema_extra={"minimum": LOGIT_BIAS.low, "maximum": LOGIT_BIAS.high})]


def _no(value: bool) -> bool:
    if value:
        raise ValueError("it must be false")
    return value


No = Annotated[bool, AfterValidator(_no), Field(json_schema_extra={"const": False})]
"""Only false: a Literal would take 0 for it."""


def _ranged(name: str, description: str) -> Any:
    """A field of RANGES, which are checked where those of all APIs are."""
    allowed = RANGES[name]
    low = "exclusiveMinimum" if allowed.low_is_open else "minimum"
    return Field(None, description=description, json_schema_extra={low: allowed.low, "maximum": allowed.high})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Body):
    """What a stream has beside its text."""

    include_usage: bool | None = Field(None, description="send the usage in an event of its own, the last")
    include_obfuscation: No | None = None


class TextFormat(_Body):
    """The only format: text as it comes."""

    type: Literal["text"]


class CommonBody(_Body):
    """What completions and chats have in common."""

    model: str = Field("", description="NAME, NAME@VERSION or NAME@LABEL; may be empty where one is served")
    stream: bool | None = Field(None, description="answer with server-sent events as tokens are generated")
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=_INT32, description="most tokens of a choice")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="choices for each prompt")
    seed: int | None = Field(None, ge=-(2**63), lt=2**64, description="makes sampling repeatable")
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None
    temperature: float | None = _ranged("temperature", "0 is greedy")
    top_p: float | None = _ranged("top_p", "sample within so much probability")
    presence_penalty: float | None = _ranged("presence_penalty", "on tokens that were generated")
    frequency_penalty: float | None = _ranged("frequency_penalty", "on tokens, for each time")
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias],
            Field(max_length=MAX_LOGIT_BIAS, description="added to logits, by token id"),
        ]
        | None
    ) = None
    user: str | None = Field(None, description="who asks, for fair sharing; a token's name goes before it")

    top_k: int | None = _ranged("top_k", "sample among so many tokens; 0 is all")
    min_p: float | None = _ranged("min_p", "leave out tokens less probable than this share of the best")
    repetition_penalty: float | None = _ranged("repetition_penalty", "on tokens of prompt and completion")
    ignore_eos: bool | None = Field(None, description="go on after the end-of-sequence token")
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)] | None = (
        None
    )
    priority: int | None = _ranged("priority", "higher goes first")
    cache_prompt: bool | None = Field(None, description="false neither uses nor fills the prefix cache")

    metadata: dict[str, str] | None = Field(None, description="of no effect")
    store: No | None = None
    service_tier: Literal["auto", "default"] | None = None


class CompletionBody(CommonBody):
    """POST /v1/completions."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
    ) = Field(description="a text, token ids, or several of one kind")
    logprobs: int | None = _ranged("logprobs", "how many alternatives come with each token's log-probability")
    echo: bool | None = Field(None, description="begin the text with the prompt's")
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Literal[""] | None = None


class TextPart(_Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One message of a conversation."""

    role: str = Field(json_schema_extra={"enum": [*ROLES, "developer"]})
    content: str | Annotated[list[TextPart], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    name: str | None = Field(None, description="of no effect")


class ChatBody(CommonBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = Field(
        None, ge=1, le=_INT32, description="as max_tokens, and goes before it"
    )
    logprobs: bool | None = Field(None, description="give each token's log-probability")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="how many alternatives come with it; needs logprobs"
    )
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = Field(None, description="of no effect")
