"""What is asked: request number i of a workload, the same on every call and in every process."""

import dataclasses
import random
import secrets
from collections.abc import Sequence
from typing import Final, Protocol, Self, TypeAlias, cast

from cadenza.client import CompletionOptions, Message, Model
from cadenza.client._prompt import chat_from, prompt_from
from cadenza.client._requests import Requests
from cadenza.client._settings import Settings
from cadenza.load._lengths import Lengths
from cadenza.v1 import completion_pb2 as pb

LoadPrompt: TypeAlias = str | Sequence[int] | Sequence[Message]
"""Text, token ids, or a conversation."""
_SALT_BITS: Final = 64


class Workload(Protocol):
    """An endless, numbered supply of requests."""

    def request(self, index: int) -> pb.StreamCompletionRequest:
        """Ready to be sent."""
        ...

    def renewed(self) -> "Workload":
        """The same again, with other tokens where tokens are made up: no cache knows them."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class GivenPrompts:
    """These requests, from the beginning again after their end."""

    messages: tuple[bytes, ...]
    """Serialised."""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("there are no prompts: give at least one")

    def request(self, index: int) -> pb.StreamCompletionRequest:
        return pb.StreamCompletionRequest.FromString(self.messages[index % len(self.messages)])

    def renewed(self) -> Self:
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class SyntheticPrompts:
    """Random token ids, no two prompts alike; replies are as long as asked for, as ends are ignored.

    The seed decides all lengths. The tokens depend on `salt` alone, so that a load does not find in the
    server's prefix cache what an earlier load of the same seed has left there.
    """

    base: bytes
    """A serialised StreamCompletionRequest: model and parameters."""
    lengths: Lengths
    vocabulary_size: int
    max_context: int
    """Where a prompt and its reply are longer together, the reply is cut, then the prompt."""
    seed: int
    salt: int

    def request(self, index: int) -> pb.StreamCompletionRequest:
        prompt, reply = self.lengths.of(index, _source(self.seed, index))
        prompt = min(prompt, self.max_context - 1)
        request = pb.StreamCompletionRequest.FromString(self.base)
        ids = _source(self.salt, index).choices(range(self.vocabulary_size), k=prompt)
        request.prompt.CopyFrom(pb.Prompt(token_ids=pb.TokenIds(ids=ids)))
        request.parameters.max_tokens = min(reply, self.max_context - prompt)
        request.parameters.ignore_eos = True
        return request

    def renewed(self) -> Self:
        return dataclasses.replace(self, salt=secrets.randbits(_SALT_BITS))


def given_prompts(
    settings: Settings, prompts: Sequence[LoadPrompt], options: Sequence[CompletionOptions]
) -> GivenPrompts:
    """A workload of prompts with the options of each. Raises InvalidOption and ValueError."""
    requests = Requests.by(settings)
    return GivenPrompts(
        tuple(
            requests.stream(_wire_form(prompt), own).request.SerializeToString()
            for prompt, own in zip(prompts, options, strict=True)
        )
    )


def synthetic_prompts(
    settings: Settings, lengths: Lengths, model: Model, options: CompletionOptions, *, seed: int = 0
) -> SyntheticPrompts:
    """A workload for this model, as the server describes it. Raises InvalidOption."""
    base = Requests.by(settings).stream(pb.Prompt(), options).request.SerializeToString()
    return SyntheticPrompts(
        base, lengths, model.vocabulary_size, model.max_context, seed, secrets.randbits(_SALT_BITS)
    )


def _source(seed: int, index: int) -> random.Random:
    return random.Random(seed << 32 | index)  # noqa: S311 - nothing secret


def _wire_form(prompt: LoadPrompt) -> pb.Prompt:
    if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Message):
        return chat_from(cast("Sequence[Message]", prompt))
    return prompt_from(cast("str | Sequence[int]", prompt))
