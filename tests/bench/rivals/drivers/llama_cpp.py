"""llama.cpp, built for this machine's CPU. arena.py starts it, in the environment of that name.

Its C functions by way of llama-cpp-python, all sequences in one batch, as its own server drives them.
Options: `kv`, the type of the KV cache (f16, f32).
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve

BATCH_TOKENS = 2048
CONTEXT_STEP = 256
KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "f32": llama_cpp.GGML_TYPE_F32}


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Of a context: its sequences and the tokens that each has room for."""

    sequences: int
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One token of a batch."""

    slot: int
    token: int
    position: int
    wanted: bool
    """Whether its logits are."""


class LlamaCpp:
    """Prompt i runs in slot i, which keeps it for the next one that begins alike."""

    def __init__(self, settings: Settings) -> None:
        llama_cpp.llama_backend_init()
        self._settings = settings
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(settings.model.encode(), params)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._shape = Shape(0, 0)
        self._context: Any = None
        self._kept: list[list[int]] = []

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine. A context of the right shape is there before the time begins."""
        self._open(len(prompts), max(map(len, prompts)) + new_tokens)
        begin = time.perf_counter()
        completions = [Completion() for _ in prompts]
        pending = {slot: self._unknown(slot, prompt) for slot, prompt in enumerate(prompts)}
        for _ in range(new_tokens):
            for slot, token in self._advance(pending).items():
                completions[slot].extend([token], time.perf_counter() - begin)
                pending[slot] = [token]
        return completions

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine."""
        self._open(1, len(token_ids))
        self._forget(0, 0)
        self._decode([Row(0, token, position, wanted=True) for position, token in enumerate(token_ids)])
        found = []
        for index, token in enumerate(token_ids[1:]):
            row = self._logits(index).astype(np.float64)
            row -= row.max()
            found.append(float(row[token] - np.log(np.exp(row).sum())))
        return found

    def _open(self, sequences: int, tokens: int) -> None:
        """Makes a context with a KV cache for each sequence (the fastest kind), unless it is there."""
        shape = Shape(sequences, -(-tokens // CONTEXT_STEP) * CONTEXT_STEP)
        if shape == self._shape:
            return
        if self._context:
            llama_cpp.llama_free(self._context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = shape.sequences * shape.tokens
        params.n_seq_max = shape.sequences
        params.n_batch = BATCH_TOKENS
        params.n_threads = params.n_threads_batch = self._settings.threads
        params.type_k = params.type_v = KV_TYPES[self._settings.options["kv"]]
        params.kv_unified = False
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context of {shape}")
        self._shape = shape
        self._kept = [[] for _ in range(sequences)]

    def _unknown(self, slot: int, prompt: TokenIds) -> list[int]:
        """Forgets what differs from the prompt; what of it is to be computed, the last token at least."""
        kept = self._kept[slot]
        common = 0
        while common < min(len(kept), len(prompt) - 1) and kept[common] == prompt[common]:
            common += 1
        self._forget(slot, common)
        return list(prompt[common:])

    def _forget(self, slot: int, begin: int) -> None:
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_seq_rm(memory, slot, begin, -1)
        del self._kept[slot][begin:]

    def _advance(self, pending: Mapping[int, Sequence[int]]) -> dict[int, int]:
        """Computes tokens of each slot; the most probable next token of each."""
        rows = [
            Row(slot, token, len(self._kept[slot]) + index, index == len(tokens) - 1)
            for slot, tokens in pending.items()
            for index, token in enumerate(tokens)
        ]
        found: dict[int, int] = {}
        for begin in range(0, len(rows), BATCH_TOKENS):
            part = rows[begin : begin + BATCH_TOKENS]
            self._decode(part)
            for index, row in enumerate(part):
                if row.wanted:
                    found[row.slot] = int(self._logits(index).argmax())
        return found

    def _decode(self, rows: Sequence[Row]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, row in enumerate(rows):
            batch.token[index] = row.token
            batch.pos[index] = row.position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row.slot
            batch.logits[index] = row.wanted
            self._kept[row.slot].append(row.token)
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode says {status}")

    def _logits(self, index: int) -> NDArray[np.float32]:
        """Of a row of the last batch, [vocabulary]; valid until the next one."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary,))


if __name__ == "__main__":
    serve(LlamaCpp)
