"""Puts the chunks of a stream together into the completion that the unary call would have given."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import grpc

from cadenza.client._results import Choice, Completion, CompletionChunk, Logprobs, Timing, Usage
from cadenza.client.errors import InternalError

_T = TypeVar("_T")


def completion_from_chunks(chunks: Sequence[CompletionChunk]) -> Completion:
    """The whole answer; `chunks` are all chunks of a stream that ended well, in order.

    Raises InternalError where they hold no choice: the server broke its contract.
    """
    by_index: dict[int, list[Choice]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            by_index.setdefault(choice.index, []).append(choice)
    if not by_index:
        raise InternalError(
            "the stream ended well but held no answer", code=grpc.StatusCode.INTERNAL, reason="EMPTY_ANSWER"
        )
    return Completion(
        id=chunks[0].id,
        model=chunks[0].model,
        choices=tuple(_joined(parts) for _, parts in sorted(by_index.items())),
        usage=_last(chunk.usage for chunk in chunks) or Usage(),
        timing=_last(chunk.timing for chunk in chunks) or Timing(),
    )


def _joined(parts: Sequence[Choice]) -> Choice:
    return Choice(
        index=parts[0].index,
        text="".join(part.text for part in parts),
        token_ids=tuple(token for part in parts for token in part.token_ids),
        finish_reason=_last(part.finish_reason for part in parts),
        logprobs=_joined_logprobs([part.logprobs for part in parts if part.logprobs is not None]),
    )


def _joined_logprobs(parts: Sequence[Logprobs]) -> Logprobs | None:
    if not parts:
        return None
    return Logprobs(
        prompt=tuple(token for part in parts for token in part.prompt),
        completion=tuple(token for part in parts for token in part.completion),
    )


def _last(values: Iterable[_T | None]) -> _T | None:
    """The last value that is there."""
    found = None
    for value in values:
        found = found if value is None else value
    return found
