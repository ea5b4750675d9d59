"""What people pass as a prompt or a conversation, and its wire form."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeAlias

import pydantic

from cadenza.client._options import Int32, Text, invalid_option
from cadenza.v1 import completion_pb2 as pb


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Text
    """Who speaks: "system", "user" or "assistant"."""
    content: Text

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = pydantic.ConfigDict(
        extra="forbid", revalidate_instances="always"
    )


Prompt: TypeAlias = str | Sequence[int]
"""Plain text, or token ids that are used as they are."""
Messages: TypeAlias = str | Sequence[Message | Mapping[str, str]]
"""A conversation; a plain str is one message of the user."""

_TEXT: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(Text)
_TOKEN_IDS = pydantic.TypeAdapter(list[Int32], config=pydantic.ConfigDict(strict=True))
_MESSAGES: pydantic.TypeAdapter[list[Message]] = pydantic.TypeAdapter(list[Message])


def prompt_from(prompt: Prompt) -> pb.Prompt:
    """The wire form of text or token ids. Raises InvalidOption."""
    try:
        if isinstance(prompt, str):
            return pb.Prompt(text=_TEXT.validate_python(prompt))
        ids = list(prompt) if isinstance(prompt, Sequence) else prompt
        return pb.Prompt(token_ids=pb.TokenIds(ids=_TOKEN_IDS.validate_python(ids)))
    except pydantic.ValidationError as error:
        raise invalid_option(error, "prompt") from None


def chat_from(messages: Messages) -> pb.Prompt:
    """The wire form of a conversation. Raises InvalidOption."""
    given = [Message("user", messages)] if isinstance(messages, str) else messages
    try:
        checked = _MESSAGES.validate_python(given)
    except pydantic.ValidationError as error:
        raise invalid_option(error, "messages") from None
    return pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role=m.role, content=m.content) for m in checked]))


def prompt_or_chat_from(prompt: Prompt | Messages) -> pb.Prompt:
    """Messages where the sequence begins with one; text or token ids otherwise. Raises InvalidOption."""
    if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Message | Mapping):
        return chat_from(prompt)  # type: ignore[arg-type]
    return prompt_from(prompt)  # type: ignore[arg-type]
