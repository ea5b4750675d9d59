"""Log-probabilities in the two forms of OpenAI's API."""

import codecs
from collections.abc import Sequence
from typing import Any

from cadenza.server.engine.request import TokenLogprob
from cadenza.server.rpc.finite import finite
from cadenza.server.tokenizer import Tokenizer


class CompletionLogprobs:
    """Those of one choice of a completion: parallel lists, with where each token begins in the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0
        """Characters that the tokens so far have completed."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def echoed(self, prompt_token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Of the prompt's tokens that are echoed; nothing predicts a prompt's first."""
        known: list[TokenLogprob | None] = [*logprobs]
        unknown: list[TokenLogprob | None] = [None] * (len(prompt_token_ids) - len(known))
        return self._lists(prompt_token_ids, unknown + known)

    def generated(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Of tokens that were generated."""
        return self._lists([one.token_id for one in logprobs], logprobs)

    def _lists(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        return {
            "tokens": [self._text(token_id) for token_id in token_ids],
            "token_logprobs": [None if one is None else finite(one.logprob) for one in logprobs],
            "top_logprobs": [None if one is None else self._top(one) for one in logprobs],
            "text_offset": [self._advance(token_id) for token_id in token_ids],
        }

    def _top(self, one: TokenLogprob) -> dict[str, float]:
        """By the tokens' text; where several have the same, the most probable."""
        found: dict[str, float] = {}
        for token_id, logprob in (*one.alternatives, (one.token_id, one.logprob)):
            found.setdefault(self._text(token_id), finite(logprob))
        return found

    def _text(self, token_id: int) -> str:
        return self._tokenizer.decode((token_id,))

    def _advance(self, token_id: int) -> int:
        offset = self._offset
        self._offset += len(self._decoder.decode(self._tokenizer.written(token_id)))
        return offset


def chat_logprobs(logprobs: Sequence[TokenLogprob], tokenizer: Tokenizer) -> dict[str, Any]:
    """Those of tokens of a chat: one object for each."""
    return {"content": [_chat_token(one, tokenizer) for one in logprobs], "refusal": None}


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Lists of one name as one."""
    return {name: values + second[name] for name, values in first.items()}


def _chat_token(one: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    top = [_token(token_id, logprob, tokenizer) for token_id, logprob in one.alternatives]
    return {**_token(one.token_id, one.logprob, tokenizer), "top_logprobs": top}


def _token(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    written = tokenizer.written(token_id)
    return {"token": written.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(written)}
