"""What answers look like, for the description of the API; tests hold every answer against it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PromptTokensDetails(_Answer):
    """What is known of the prompt's tokens."""

    cached_tokens: int


class Usage(_Answer):
    """Tokens of all prompts and of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(_Answer):
    """Parallel lists, an entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(_Answer):
    """A completed text, or what is new of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class _Envelope(_Answer):
    id: str
    created: int
    model: str
    system_fingerprint: str


class Completion(_Envelope):
    """The answer of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(_Envelope):
    """An event of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(_Answer):
    """A token that might have been."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that is."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Answer):
    """Those of the message's tokens."""

    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(_Answer):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(_Answer):
    """A message."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(_Envelope):
    """The answer of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class Delta(_Answer):
    """What is new of a message."""

    role: Literal["assistant"] | None = None
    content: str


class ChatChunkChoice(_Answer):
    """What is new of a choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(_Envelope):
    """An event of /v1/chat/completions."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelEntry(_Answer):
    """A model; `max_model_len` is the most tokens of prompt and completion together."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    version: int
    max_model_len: int


class ModelList(_Answer):
    """The models that are loaded."""

    object: Literal["list"]
    data: list[ModelEntry]


class ErrorObject(_Answer):
    """What went wrong. `code` is a reason of docs/errors.md in small letters, or OpenAI's word for it."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str


class Error(_Answer):
    """The body of every answer that is an error, and the last event of a stream that breaks off."""

    error: ErrorObject
