"""transformers (PyTorch), a static batch. arena.py starts it, in the environment of that name.

Options: `dtype`, of weights, arithmetic and KV cache (bfloat16, float32). Prompts of different lengths are
batches of their own.
"""

import itertools
import time
from collections.abc import Sequence

import torch
import transformers
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve


class Transformers:
    """A model whose `generate` gets one batch at a time."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=getattr(torch, settings.options["dtype"]), attn_implementation="sdpa"
        ).eval()
        self._model.generation_config.eos_token_id = None

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine."""
        begin = time.perf_counter()
        completions = [Completion() for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for _, group in itertools.groupby(order, key=lambda index: len(prompts[index])):
            indices = list(group)
            tokens, times = self._generate([prompts[index] for index in indices], new_tokens, begin)
            for index, row in zip(indices, tokens, strict=True):
                completions[index] = Completion(row, times)
        return completions

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine."""
        ids = torch.tensor([list(token_ids)])
        with torch.inference_mode():
            rows = self._model(ids).logits[0, :-1].double().log_softmax(-1)
        chosen: list[float] = rows.gather(1, ids[0, 1:, None])[:, 0].tolist()
        return chosen

    def _generate(
        self, prompts: Sequence[TokenIds], new_tokens: int, begin: float
    ) -> tuple[list[list[int]], list[float]]:
        """The new tokens of prompts of one length, and when each column of them was there."""
        times: list[float] = []

        def note(token_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            times.append(time.perf_counter() - begin)
            return torch.zeros(len(token_ids), dtype=torch.bool)

        ids = torch.tensor([list(prompt) for prompt in prompts])
        with torch.inference_mode():
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new_tokens,
                pad_token_id=0,
                stopping_criteria=[note],
            )
        return found[:, ids.shape[1] :].tolist(), times


if __name__ == "__main__":
    serve(Transformers)
