"""CTranslate2, a static batch. arena.py starts it, in the environment of that name.

Options: `compute_type` (int8, float32).
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve


class CTranslate2:
    """A generator that speaks of tokens by their text."""

    def __init__(self, settings: Settings) -> None:
        self._generator = ctranslate2.Generator(
            settings.model,
            device="cpu",
            compute_type=settings.options["compute_type"],
            inter_threads=1,
            intra_threads=settings.threads,
        )
        self._tokens = json.loads(Path(settings.model, "vocabulary.json").read_text(encoding="utf-8"))

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine."""
        completions = [Completion() for _ in prompts]
        begin = time.perf_counter()

        def note(step: Any) -> bool:
            completions[step.batch_id].extend([step.token_id], time.perf_counter() - begin)
            return False

        self._generator.generate_batch(
            [[self._tokens[token] for token in prompt] for prompt in prompts],
            beam_size=1,
            sampling_topk=1,
            max_length=new_tokens,
            end_token=[],
            include_prompt_in_result=False,
            callback=note,
        )
        return completions

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine."""
        (scored,) = self._generator.score_batch([[self._tokens[token] for token in token_ids]])
        return list(scored.log_probs)


if __name__ == "__main__":
    serve(CTranslate2)
