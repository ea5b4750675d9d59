"""What travels between the RPC loop and the engine thread: requests in, events out.

Everything here is immutable, so both threads may hold it without a lock.
"""

import dataclasses
import enum
import math


class FinishReason(enum.Enum):
    """Why a sequence ended."""

    STOP = "stop"
    """The model's end-of-sequence token or a stop string."""
    LENGTH = "length"
    """max_tokens were generated."""
    STOP_TOKEN = "stop_token"  # noqa: S105
    """One of the request's own stop tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen from the logits; temperature 0 is greedy.

    The order is: logit_bias, repetition_penalty, presence_penalty and frequency_penalty on the logits; then
    logits / temperature, softmax, top_k, top_p, min_p, and one draw with a random number that depends on
    (seed, choice, position) alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    """Unsigned, 64 bits."""
    choice: int = 0
    """Which of a request's choices is drawn."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen, prompt included (arXiv:1909.05858)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens of the completion, once."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of tokens of the completion, once per occurrence."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, each once, and what is added to their logits."""
    logprobs: int | None = None
    """How many alternatives come with each token's log-probability; None: no log-probabilities at all.

    They are of the model's own distribution: log-softmax of the logits, before bias, penalties, temperature
    and truncation.
    """

    @property
    def needs_history(self) -> bool:
        """Whether the choice depends on the tokens before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


GREEDY = SamplingParams(temperature=0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability and the most probable tokens in its place, most probable first."""

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()
    """Token ids and log-probabilities."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete, validated and tokenized. Times are seconds on the engine's clock."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    arrival_time: float
    sampling: SamplingParams = GREEDY
    """Of choice 0; the others differ in `choice` alone."""
    n: int = 1
    """Choices."""
    prompt_logprobs: bool = False
    """Whether the prompt's tokens get log-probabilities too; sampling.logprobs says how many alternatives."""
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    eos_token_ids: frozenset[int] = frozenset()
    """The model's end tokens; empty where the request ignores them."""
    priority: int = 0
    """Higher goes first."""
    client: str = ""
    """Between whom the engine shares its work fairly."""
    cache_prompt: bool = True
    """Whether its KV blocks may come from, and be left to, other requests."""
    deadline: float = math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class Submit:
    """A request enters the engine."""

    request: Request


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel:
    """A request's client has gone; unknown and finished ids are ignored."""

    request_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Drain:
    """Finish what runs and waits, then stop. What is submitted later is not run."""


Command = Submit | Cancel | Drain


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """When a request's milestones were, in seconds on the engine's clock.

    What responses, metrics, traces and logs say of a request's time is of these.
    """

    arrival: float
    first_step: float
    first_token: float
    last_token: float

    @property
    def queue(self) -> float:
        """Seconds from arrival to the first step: reading the prompt, and waiting."""
        return self.first_step - self.arrival

    @property
    def prefill(self) -> float:
        """Seconds from the first step to the first token."""
        return self.first_token - self.first_step

    @property
    def decode(self) -> float:
        """Seconds from the first token to the last."""
        return self.last_token - self.first_token

    @property
    def time_to_first_token(self) -> float:
        """Seconds from arrival to the first token."""
        return self.first_token - self.arrival

    @property
    def total(self) -> float:
        """Seconds from arrival to the last token."""
        return self.last_token - self.arrival


@dataclasses.dataclass(frozen=True, slots=True)
class Admitted:
    """The request has left the queue: its first step begins."""

    request_id: str
    time: float
    """When its first step began."""
    cached_prompt_tokens: int
    """Those of its prompt whose KV blocks were there already."""


@dataclasses.dataclass(frozen=True, slots=True)
class Preempted:
    """One of the request's choices has lost its KV blocks and waits, to be computed again."""

    request_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """One step's new tokens of a choice, and the text that became safe to show (both may be empty)."""

    request_id: str
    choice: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of token_ids, where they were asked for."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the prompt's tokens from the second on, as they become known: of choice 0 only."""
    finish_reason: FinishReason | None = None
    """Set in the choice's last event."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The request's last event, after the last of every choice: what it took."""

    request_id: str
    prompt_tokens: int
    cached_prompt_tokens: int
    """Those of prompt_tokens whose KV blocks were there already."""
    completion_tokens: int
    """Of all choices."""
    timing: Timing


@dataclasses.dataclass(frozen=True, slots=True)
class Cancelled:
    """The request ended without an answer, by `Cancel` or by its deadline; its blocks are free."""

    request_id: str
    deadline_exceeded: bool


class FailureCause(enum.Enum):
    """Whose fault it was that a request has no answer."""

    STEP_FAILED = "step_failed"
    """The runner raised in a step that this request was part of."""
    LOGITS_NOT_FINITE = "logits_not_finite"
    """The model gave NaN or infinity for this request alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without an answer, by a failure; the engine goes on."""

    request_id: str
    cause: FailureCause
    message: str
    """For the server's log."""


Event = Admitted | Preempted | Progress | Finished | Cancelled | Failed


class StepKind(enum.Enum):
    """What a step computed."""

    PREFILL = "prefill"
    """Prompts, or again what a preemption has lost."""
    DECODE = "decode"
    """Next tokens alone."""
    MIXED = "mixed"


@dataclasses.dataclass(frozen=True, slots=True)
class StepReport:
    """What one engine step did, for metrics. Gauges are as of the step's end."""

    events: tuple[Event, ...]
    duration: float
    """Seconds, runner and scheduling together; 0 where nothing ran."""
    batch_tokens: int
    batch_sequences: int
    kind: StepKind | None
    """None where no tokens ran."""
    running: int
    """Sequences that have KV blocks and are advanced."""
    waiting: int
    """Sequences that wait for their first step, or for another after a preemption."""
    preemptions: int
    """Sequences preempted in this step."""
    prompt_tokens_looked_up: int
    """Prompt tokens of requests admitted in this step that may use the prefix cache."""
    prompt_tokens_cached: int
    """Those of them that were found."""
    kv_blocks_used: int
    """Blocks that sequences hold; what only the prefix cache holds counts as free."""
    kv_blocks_total: int
    draft_tokens: int = 0
    """Those of batch_tokens that were guessed, to be checked."""
    draft_tokens_accepted: int = 0
    """Those of draft_tokens that became tokens of their sequences."""
