"""OpenVINO GenAI's continuous batching. arena.py starts it, in the environment of that name.

Options: `precision`, that of its arithmetic (bf16, f32), and `kv_precision`, that of its KV cache (u8, bf16,
f32).
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve

BLOCK_TOKENS = 32
"""Of a KV block on a CPU."""
STEP_TOKENS = 2048
"""Most tokens of a step: all prompts of a burst in one."""


class OpenVINO:
    """A pipeline that is stepped by hand."""

    def __init__(self, settings: Settings) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = settings.kv_tokens // BLOCK_TOKENS
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.max_num_seqs = settings.max_sequences
        scheduler.enable_prefix_caching = True
        properties = {
            "INFERENCE_NUM_THREADS": settings.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": settings.options["precision"],
            "KV_CACHE_PRECISION": settings.options["kv_precision"],
        }
        if settings.speculates:
            properties["prompt_lookup"] = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            settings.model, scheduler, "CPU", properties
        )
        self._speculates = settings.speculates
        self._requests = 0

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine."""
        completions = [Completion() for _ in prompts]
        begin = time.perf_counter()
        handles = [self._add(prompt, self._greedy(new_tokens)) for prompt in prompts]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            at = time.perf_counter() - begin
            for handle, completion in zip(handles, completions, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        completion.extend(output.generated_ids, at)
        return completions

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine."""
        config = self._greedy(1)
        config.echo = True
        config.logprobs = 1
        handle = self._add(token_ids, config)
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        found: list[float] = []
        for output in handle.read_all():
            found += output.generated_log_probs
        return found[1 : len(token_ids)]

    def _add(self, prompt: TokenIds, config: Any) -> Any:
        self._requests += 1
        ids = openvino.Tensor(np.array([prompt], np.int64))
        return self._pipeline.add_request(self._requests, ids, config)

    def _greedy(self, new_tokens: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        if self._speculates:
            config.num_assistant_tokens = 5
            config.max_ngram_size = 3
        return config


if __name__ == "__main__":
    serve(OpenVINO)
