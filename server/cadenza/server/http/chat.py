"""POST /v1/chat/completions: conversations, rendered by the model's own template."""

from collections.abc import Sequence
from typing import Any

from cadenza.server.engine.request import Progress
from cadenza.server.errors import InvalidRequestError, Reason
from cadenza.server.http.batch import Submitted
from cadenza.server.http.bodies import ChatBody, ChatMessage
from cadenza.server.http.calls import Incoming
from cadenza.server.http.generation import Work, find_model, generate, read_body
from cadenza.server.http.logprobs import chat_logprobs
from cadenza.server.http.parameters import chat_parameters
from cadenza.server.http.sending import Answer
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.tokenizer import Tokenizer
from cadenza.v1 import completion_pb2 as pb

_SAME_ROLES = {"developer": "system"}
"""Newer words of OpenAI's for roles that templates know."""


class Chats:
    """Answers from the models of a table."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    async def respond(self, incoming: Incoming, answer: Answer) -> None:
        """Answers one call. Raises RequestError."""
        body = read_body(incoming, ChatBody)
        prompt = pb.Prompt(chat=pb.Chat(messages=map(_message, body.messages)))
        parameters = chat_parameters(body)
        model = find_model(incoming, body, self._models)
        if model.chat_template is None:
            raise InvalidRequestError(
                Reason.NO_CHAT_TEMPLATE,
                "messages",
                f"model {model.name} has no chat template; send texts to /v1/completions",
            )

        def make_writer(model: ServedModel, _submitted: Sequence[Submitted]) -> _Writer:
            return _Writer(model.tokenizer, logprobs=bool(body.logprobs))

        await generate(incoming, answer, body, model, Work([prompt], parameters, make_writer))


def _message(message: ChatMessage) -> pb.ChatMessage:
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return pb.ChatMessage(role=_SAME_ROLES.get(message.role, message.role), content=text)


class _Writer:
    """Choices as messages of the assistant."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._has_logprobs = logprobs
        self._begun: set[int] = set()

    def whole(self, _prompt: int, progress: Progress) -> dict[str, Any]:
        """A choice from its first token to its last."""
        message = {"role": "assistant", "content": progress.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(progress)}

    def piece(self, _prompt: int, progress: Progress) -> dict[str, Any]:
        """What is new of a choice; the first piece says who speaks."""
        delta = {"content": progress.text}
        if progress.choice not in self._begun:
            self._begun.add(progress.choice)
            delta = {"role": "assistant", **delta}
        return {"delta": delta, "logprobs": self._logprobs(progress)}

    def _logprobs(self, progress: Progress) -> dict[str, Any] | None:
        return chat_logprobs(progress.logprobs, self._tokenizer) if self._has_logprobs else None
