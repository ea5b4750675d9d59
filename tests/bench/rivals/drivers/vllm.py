"""vLLM on the CPU, its engine in process. arena.py starts it, in the environment of that name.

Options: `dtype`, of weights, arithmetic and KV cache (bfloat16, float32).
"""

import time
from collections.abc import Sequence

from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve
from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind

GUESSED_TOKENS = 5


class VLLM:
    """An engine that is stepped by hand."""

    def __init__(self, settings: Settings) -> None:
        ngram = {
            "method": "ngram",
            "num_speculative_tokens": GUESSED_TOKENS,
            "prompt_lookup_max": 3,
            "prompt_lookup_min": 1,
        }
        self._engine = LLM(
            settings.model,
            dtype=settings.options["dtype"],
            max_model_len=settings.max_context,
            max_num_seqs=settings.max_sequences,
            speculative_config=ngram if settings.speculates else None,
        ).llm_engine
        self._requests = 0

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine."""
        params = self._greedy(new_tokens)
        begin = time.perf_counter()
        completions = {self._add(prompt, params): Completion() for prompt in prompts}
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            at = time.perf_counter() - begin
            for output in outputs:
                completions[output.request_id].extend(output.outputs[0].token_ids, at)
        return list(completions.values())

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine."""
        params = self._greedy(1)
        params.prompt_logprobs = 0
        self._add(token_ids, params)
        found: list[float] = []
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                rows = (output.prompt_logprobs or [None])[1:]
                found += [row[token].logprob for row, token in zip(rows, token_ids[1:], strict=False)]
        return found

    def _add(self, prompt: TokenIds, params: SamplingParams) -> str:
        self._requests += 1
        name = str(self._requests)
        self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, params)
        return name

    def _greedy(self, new_tokens: int) -> SamplingParams:
        return SamplingParams(
            temperature=0.0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


if __name__ == "__main__":
    serve(VLLM)
