"""A static batch in transformers (PyTorch, float32), for tests/bench/static_batch.py.

`python -m tests.bench.static_batch_torch GGUF`, in the oracle's environment. Says "ready", then for every
line of prompts (JSON, all of one length) generates for all at once and says how many seconds it took.
"""

import json
import sys
import time
from pathlib import Path

import torch
from tests.bench.workload import NEW_TOKENS
from tests.parity.oracle import Oracle


def main() -> None:
    """Answers lines until there are no more."""
    model = Oracle(Path(sys.argv[1]))._model
    model.set_attn_implementation("sdpa")
    print("ready", flush=True)
    for line in sys.stdin:
        prompts = torch.tensor(json.loads(line))
        begin = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
            )
        seconds = time.perf_counter() - begin
        assert found.shape == (len(prompts), prompts.shape[1] + NEW_TOKENS)
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
