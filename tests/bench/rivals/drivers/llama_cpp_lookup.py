"""llama.cpp with prompt lookup, one sequence. arena.py starts it, in llama.cpp's environment.

llama-cpp-python's own class with its own draft model, the one door to prompt lookup that it has.
"""

import time
from collections.abc import Sequence

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve

GUESSED_TOKENS = 2
"""What its documentation recommends on a CPU."""


class LlamaCppLookup:
    """Takes one prompt at a time."""

    def __init__(self, settings: Settings) -> None:
        self._llama = llama_cpp.Llama(
            settings.model,
            n_ctx=1024,
            n_batch=512,
            n_threads=settings.threads,
            n_threads_batch=settings.threads,
            logits_all=True,
            draft_model=LlamaPromptLookupDecoding(num_pred_tokens=GUESSED_TOKENS),
            verbose=False,
        )

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine."""
        begin = time.perf_counter()
        completions = []
        for prompt in prompts:
            completion = Completion()
            for token in self._llama.generate(list(prompt), top_k=1, temp=0.0, repeat_penalty=1.0):
                completion.extend([token], time.perf_counter() - begin)
                if len(completion.times) == new_tokens:
                    break
            completions.append(completion)
        return completions

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine. The same weights are judged without lookup."""
        raise NotImplementedError


if __name__ == "__main__":
    serve(LlamaCppLookup)
