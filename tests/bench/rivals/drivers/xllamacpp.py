"""llama.cpp's own server engine, from a prebuilt wheel. arena.py starts it, in the environment of that name.

Its continuous batching runs in process; every prompt is a call in a thread. Options: `kv`, the type of the KV
cache (f16, f32).
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xllamacpp
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve

SLOT_TOKENS = 512
KV_TYPES = {"f16": xllamacpp.ggml_type.GGML_TYPE_F16, "f32": xllamacpp.ggml_type.GGML_TYPE_F32}


class XLlamaCpp:
    """A server with a slot for each sequence; with prompt lookup it has one slot."""

    def __init__(self, settings: Settings) -> None:
        slots = 1 if settings.speculates else settings.max_sequences
        params = xllamacpp.CommonParams()
        params.model.path = settings.model
        params.n_parallel = slots
        params.n_ctx = SLOT_TOKENS * slots
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
        params.cache_type_k = params.cache_type_v = KV_TYPES[settings.options["kv"]]
        params.cache_ram_mib = 0
        params.ui = False
        if settings.speculates:
            params.speculative.types = [
                xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE
            ]
            params.speculative.ngram_simple.size_n = 3
            params.speculative.ngram_simple.size_m = 5
        self._server = xllamacpp.Server(params)
        self._threads = ThreadPoolExecutor(slots)

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine. The server tells how many tokens there are, and not which."""
        begin = time.perf_counter()
        calls = [self._threads.submit(self._one, prompt, new_tokens, begin) for prompt in prompts]
        return [call.result() for call in calls]

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine. The same weights are judged in the other build of llama.cpp."""
        raise NotImplementedError

    def _one(self, prompt: TokenIds, new_tokens: int, begin: float) -> Completion:
        completion = Completion()

        def note(chunk: dict[str, Any]) -> None:
            at = time.perf_counter() - begin
            found = chunk.get("timings", {}).get("predicted_n", 0)
            completion.times += [at] * (found - len(completion.times))

        request = {
            "prompt": list(prompt),
            "max_tokens": new_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream": True,
            "timings_per_token": True,
        }
        self._server.handle_completions(request, note)
        return completion


if __name__ == "__main__":
    serve(XLlamaCpp)
