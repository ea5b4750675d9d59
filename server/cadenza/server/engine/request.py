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

    The order is: logits / temperature, softmax, top_k, top_p, min_p, then one draw with a random number
    that depends on (seed, position) alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    """Unsigned, 64 bits."""


GREEDY = SamplingParams(temperature=0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete, validated and tokenized. Times are seconds on the engine's clock."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    arrival_time: float
    sampling: SamplingParams = GREEDY
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    eos_token_ids: frozenset[int] = frozenset()
    """The model's end tokens; empty where the request ignores them."""
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
    """When a request's milestones were, in seconds on the engine's clock."""

    arrival: float
    first_step: float
    first_token: float
    last_token: float


@dataclasses.dataclass(frozen=True, slots=True)
class Admitted:
    """The request has left the queue: its first step begins."""

    request_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """One step's new tokens of a request, and the text that became safe to show (may be empty)."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The request's last event: its last tokens and text, why it ended and what it took."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    timing: Timing


@dataclasses.dataclass(frozen=True, slots=True)
class Cancelled:
    """The request ended without an answer, by `Cancel` or by its deadline; its blocks are free."""

    request_id: str
    deadline_exceeded: bool


Event = Admitted | Progress | Finished | Cancelled


@dataclasses.dataclass(frozen=True, slots=True)
class StepReport:
    """What one engine step did, for metrics. Gauges are as of the step's end."""

    events: tuple[Event, ...]
    duration: float
    """Seconds, runner and scheduling together; 0 where nothing ran."""
    batch_tokens: int
    batch_sequences: int
    running: int
    waiting: int
    preemptions: int
    """Sequences preempted in this step."""
    kv_blocks_used: int
    kv_blocks_total: int
