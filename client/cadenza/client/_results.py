"""What calls return: frozen dataclasses, so that results can be shared, compared and kept."""

import dataclasses
import enum


class FinishReason(enum.StrEnum):
    """Why a choice ended."""

    STOP = "STOP"
    """The model's end-of-sequence token or a stop string of the request."""
    LENGTH = "LENGTH"
    """max_tokens were generated."""
    STOP_TOKEN = "STOP_TOKEN"  # noqa: S105
    """One of the request's stop_token_ids."""
    UNKNOWN = "UNKNOWN"
    """A reason that this version of the SDK does not know."""


class ServingStatus(enum.StrEnum):
    """What the server's health service answers."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"


@dataclasses.dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of one token."""

    token_id: int
    text: str
    logprob: float | None
    """Natural logarithm of the model's own probability; None for the first token of a prompt."""
    alternatives: tuple["TokenLogprob", ...] = ()
    """The most probable tokens at this position, most probable first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of a choice's tokens."""

    prompt: tuple[TokenLogprob, ...] = ()
    """All tokens of the prompt, when echo was asked for; of choice 0 alone."""
    completion: tuple[TokenLogprob, ...] = ()
    """Those of the choice's token_ids, one each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One completion of the prompt, or in a chunk the part of it that is new."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    """Generated tokens, the one that ended the choice included."""
    finish_reason: FinishReason | None
    """None in a chunk that is not the choice's last."""
    logprobs: Logprobs | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What the request used, in tokens."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Those of prompt_tokens that were found in the KV cache."""
    completion_tokens: int = 0
    """Of all choices together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Where the request's time went, in seconds on the server's clock."""

    queue: float = 0.0
    """From the request's arrival to its first step."""
    prefill: float = 0.0
    """From its first step to its first token."""
    decode: float = 0.0
    """From its first token to its last."""
    time_to_first_token: float = 0.0
    """From the request's arrival to its first token."""


@dataclasses.dataclass(frozen=True, slots=True)
class CompletionChunk:
    """One message of a stream."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    """In the last chunk only."""
    timing: Timing | None = None
    """In the last chunk only."""

    @property
    def text(self) -> str:
        """The new text of choice 0; empty where the chunk has none."""
        return "".join(choice.text for choice in self.choices if choice.index == 0)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The new tokens of choice 0."""
        return next((choice.token_ids for choice in self.choices if choice.index == 0), ())

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why choice 0 ended; None where it goes on."""
        return next((choice.finish_reason for choice in self.choices if choice.index == 0), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    id: str
    """The request id."""
    model: str
    """The model that answered."""
    choices: tuple[Choice, ...]
    """By index; at least one."""
    usage: Usage
    timing: Timing

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The generated tokens of the first choice."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first choice ended."""
        return self.choices[0].finish_reason


@dataclasses.dataclass(frozen=True, slots=True)
class TokenCount:
    """A prompt as the model would read it, the chat template applied."""

    prompt_tokens: int
    token_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A model that the server has loaded."""

    name: str
    version: int
    family: str
    """The decoder family: "llama", ..."""
    precision: str
    """Weights of the loaded program: "int8", "float32", ..."""
    parameter_count: int
    vocabulary_size: int
    max_context: int
    """Most tokens of prompt and completion together on this server."""
    default_max_tokens: int
    """max_tokens of a request that does not say."""
    has_chat_template: bool
    """Whether chat is answered."""
    eos_token_ids: tuple[int, ...]
    """The tokens that end a completion."""
