"""One choice of a request on its way: its tokens, how far they are computed, and its KV blocks."""

import dataclasses
from array import array
from collections.abc import Sequence as ReadOnlyList

from cadenza.server.engine.drafts import Drafter
from cadenza.server.engine.request import Request, SamplingParams
from cadenza.server.engine.text import TextAssembler
from cadenza.server.runner.base import BlockCopy


@dataclasses.dataclass(slots=True, eq=False)
class Sequence:
    """The engine's mutable state of a choice."""

    request: Request
    order: tuple[int, int]
    """The request's place in the order of arrival, and the choice: older is less."""
    sampling: SamplingParams
    text: TextAssembler
    token_ids: "array[int]"
    """The prompt and what was generated, as 32-bit integers."""
    num_computed: int = 0
    """How many of token_ids have their keys and values in the cache."""
    block_table: "array[int]" = dataclasses.field(default_factory=lambda: array("i"))
    block_copy: BlockCopy | None = None
    """To be done at the beginning of its next step."""
    block_keys: list[bytes] = dataclasses.field(default_factory=list)
    """Keys of its first full blocks, as far as they were asked for."""
    num_registered: int = 0
    """How many of its first blocks need no registering any more."""
    num_prompt_logprobs: int = 0
    """Log-probabilities of prompt tokens handed out: those of tokens 1 .. num_prompt_logprobs."""
    begun: bool = False
    """Whether work was done for it: it has run, or its prompt was computed by another choice."""
    overdue_at: float = 0.0
    """While it waits: when it will have waited too long, in seconds on the engine's clock."""
    patience: float = 0.0
    """While it runs: how many seconds more it may wait, in all, before it is overdue."""
    protected: bool = False
    """Whether it was overdue when it began to run."""
    goes_in_pieces: bool = False
    """While it runs: whether so much was to be computed first that streams should not wait for all of it."""
    drafter: Drafter | None = None
    """Guesses its next tokens, once it has generated one and where drafts are checked at all."""

    @classmethod
    def of(
        cls, request: Request, number: int, sampling: SamplingParams, token_bytes: ReadOnlyList[bytes]
    ) -> "Sequence":
        """The sequence of the choice that `sampling` names, of the request that came as the `number`-th."""
        return cls(
            request=request,
            order=(number, sampling.choice),
            sampling=sampling,
            text=TextAssembler(token_bytes, request.stop),
            token_ids=array("i", request.prompt_token_ids),
        )

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.request_id

    @property
    def choice(self) -> int:
        """Which of the request's choices it is."""
        return self.order[1]

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def num_pending(self) -> int:
        """Tokens to advance before the next one can be chosen: 1 in decode, more in prefill."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Whether nothing but its last generated token is to be computed."""
        return self.num_pending == 1 and self.num_generated > 0

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.request.prompt_token_ids)

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of prompt tokens are still to be handed out."""
        return (
            self.request.prompt_logprobs
            and not self.choice
            and self.num_prompt_logprobs < self.prompt_length - 1
        )

    @property
    def num_skippable(self) -> int:
        """How many of its first tokens need not be computed where their KV blocks are found."""
        if self.wants_prompt_logprobs:
            return self.num_prompt_logprobs
        return len(self.token_ids) - 1

    @property
    def rank(self) -> tuple[bool, int, tuple[int, int]]:
        """Who gives way when KV blocks run out: the greatest does."""
        return not self.protected, -self.request.priority, self.order
