"""One call's answer as JSON: whole, or in pieces; what a choice looks like is its writer's."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from cadenza.server.engine.request import Finished, FinishReason, Progress
from cadenza.server.http.sending import event, to_json
from cadenza.server.models import ServedModel
from cadenza.server.rpc.reply import summary
from cadenza.server.streams import Part


class ChoiceWriter(Protocol):
    """Writes the choices of one kind of answer. `prompt` is the number of the prompt in the call."""

    id_prefix: str
    whole_object: str
    piece_object: str

    def whole(self, prompt: int, progress: Progress) -> dict[str, Any]:
        """A choice from its first token to its last."""
        ...

    def piece(self, prompt: int, progress: Progress) -> dict[str, Any]:
        """What is new of a choice."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """What the caller said about the answer's form."""

    n: int
    """Choices of each prompt; those of prompt p are numbered from p * n on."""
    include_usage: bool


class Reply:
    """Writes one answer, in order."""

    def __init__(self, request_id: str, model: ServedModel, writer: ChoiceWriter, form: Form) -> None:
        self._writer = writer
        self._form = form
        self._finished: list[Finished] = []
        self._reasons: dict[int, FinishReason] = {}
        self._head = {
            "id": f"{writer.id_prefix}-{request_id}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"{model.name}@{model.version}-{model.precision}",
        }
        head = to_json({**self._head, "object": writer.piece_object})
        self._piece_head = head[:-1] + b',"choices":['
        self._piece_tail = b'],"usage":null}' if form.include_usage else b"]}"

    def events(self, prompt: int, part: Part) -> bytes:
        """What is new of one prompt, an event for each choice: clients read the first of an event alone."""
        choices = self._numbered(prompt, part, self._writer.piece)
        return b"".join(event(self._piece_head + to_json(choice) + self._piece_tail) for choice in choices)

    def last_events(self) -> bytes:
        """What comes after all choices have ended: the usage, where it was asked for."""
        if not self._form.include_usage:
            return b""
        head = {**self._head, "object": self._writer.piece_object}
        return event(to_json({**head, "choices": [], "usage": self._usage()}))

    def whole(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [
            choice
            for prompt, part in enumerate(parts)
            for choice in self._numbered(prompt, part, self._writer.whole)
        ]
        head = {**self._head, "object": self._writer.whole_object}
        return {**head, "choices": choices, "usage": self._usage()}

    @property
    def finished_prompts(self) -> int:
        """How many prompts have their whole answer."""
        return len(self._finished)

    @property
    def log(self) -> dict[str, object]:
        """What the call's log line says of the answer; nothing before a prompt has ended."""
        if not self._finished:
            return {}
        return summary(self._finished, [reason for _, reason in sorted(self._reasons.items())])

    def _numbered(self, prompt: int, part: Part, write: Any) -> Iterator[dict[str, Any]]:
        if part.finished is not None:
            self._finished.append(part.finished)
        for progress in part.choices:
            index = prompt * self._form.n + progress.choice
            reason = progress.finish_reason
            if reason is not None:
                self._reasons[index] = reason
            written = write(prompt, progress)
            yield {"index": index, **written, "finish_reason": _finish_reason(reason)}

    def _usage(self) -> dict[str, Any]:
        prompt = sum(one.prompt_tokens for one in self._finished)
        completion = sum(one.completion_tokens for one in self._finished)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": sum(one.cached_prompt_tokens for one in self._finished)
            },
        }


def _finish_reason(reason: FinishReason | None) -> str | None:
    """OpenAI's API has no word of its own for tokens that stop."""
    if reason is None:
        return None
    return "length" if reason is FinishReason.LENGTH else "stop"
