"""A conversation of several turns, and how much of each turn's prompt the server should find in its cache."""

import dataclasses

from cadenza.client import Client, Message

SYSTEM = (
    "You are a helpful assistant of a town's library. Answer briefly, in plain words, and say so where you "
    "do not know something. Members may borrow ten books for four weeks, and extend once. The library is "
    "open from nine to six, on Saturdays from ten to two."
)
QUESTIONS = (
    "When are you open?",
    "How many books can I take, and for how long?",
    "Tell me about a classic novel of the sea.",
    "Who wrote it, and when?",
    "Is there something similar that is shorter?",
    "Thank you. How do I extend a loan?",
)
ANSWER_TOKENS = 48


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    prompt_tokens: int
    cached: int
    """cached_prompt_tokens, as the server says."""
    expected: int
    """All full blocks of what this turn's prompt has in common with the turn before.

    The last token of an answer was never fed back, so the turn before left the keys of all but that one. At
    least one token of a prompt is always computed.
    """
    ttft: float
    """Seconds, on the server's clock."""


def converse(client: Client, block_size: int, title: str) -> list[Turn]:
    """Holds the conversation; `title` makes it differ from every other one from its first words on."""
    messages = [Message("system", f"{title}. {SYSTEM}")]
    computed: tuple[int, ...] = ()
    turns = []
    for question in QUESTIONS:
        messages.append(Message("user", question))
        prompt = client.count_tokens(messages).token_ids
        answer = client.chat(messages, temperature=0, max_tokens=ANSWER_TOKENS)
        shared = min(common(prompt, computed), len(prompt) - 1)
        turns.append(
            Turn(
                prompt_tokens=answer.usage.prompt_tokens,
                cached=answer.usage.cached_prompt_tokens,
                expected=shared // block_size * block_size,
                ttft=answer.timing.time_to_first_token,
            )
        )
        computed = (*prompt, *answer.token_ids[:-1])
        messages.append(Message("assistant", answer.text))
    return turns


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    return next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )
