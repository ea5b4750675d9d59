"""The oracle of the families: transformers (PyTorch, float32) on the models of tests/families.

`python -m tests.parity.families OUTPUT_FOLDER`, in the environment that run.sh makes, writes families.json
(committed as tests/reference/families.json), and a file for each realistic size, too large to commit.
"""

import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from tests.export.tiny import tokenizer
from tests.families.cases import GREEDY_TOKENS, PROMPTS, Case, digest, kept, write
from tests.families.catalogue import CASES, REALISTIC
from tests.parity.oracle import write_json

DIGITS: Final = 6


class Model:
    """One model of the tests in transformers."""

    def __init__(self, case: Case) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                write(case, Path(folder) / "model"),
                dtype=torch.float32,
                attn_implementation="eager",
                output_loading_info=True,
            )
        wrong = {what: names for what, names in loaded.items() if names}
        if wrong:
            raise ValueError(f"the weights of {case.name!r} do not fit transformers' model: {wrong}")
        self._model.eval()

    def logits(self, token_ids: Sequence[int]) -> Any:
        """Returns the logits after every token, [T, V] float32."""
        with torch.inference_mode():
            return self._model(torch.tensor([list(token_ids)])).logits[0].numpy()

    def greedy(self, prompt: Sequence[int]) -> tuple[list[int], float]:
        """Returns the most probable continuation, end tokens ignored, and its smallest lead in logits."""
        tokens: list[int] = []
        smallest = float("inf")
        step, cache = torch.tensor([list(prompt)]), None
        with torch.inference_mode():
            while len(tokens) < GREEDY_TOKENS:
                output = self._model(step, past_key_values=cache, use_cache=True)
                best = torch.topk(output.logits[0, -1], 2)
                tokens.append(int(best.indices[0]))
                smallest = min(smallest, float(best.values[0] - best.values[1]))
                step, cache = best.indices[:1][None], output.past_key_values
        return tokens, smallest


def _prompt(model: Model, text: str) -> tuple[dict[str, Any], Any]:
    """What is kept of one prompt, and the logits of all of it and its continuation."""
    prompt = tokenizer().encode(text).ids
    completion, gap = model.greedy(prompt)
    logits = model.logits([*prompt, *completion])
    entry = {
        "prompt": prompt,
        "completion": completion,
        "smallest_gap": round(gap, DIGITS),
        "largest_logit": round(float(np.abs(logits).max()), DIGITS),
    }
    return entry, logits


def _small(case: Case) -> dict[str, Any]:
    model, prompts = Model(case), []
    for text in PROMPTS:
        entry, logits = _prompt(model, text)
        rows = np.round(kept(logits).astype(np.float64), DIGITS).tolist()
        prompts.append(entry | {"logits": rows})
    print(f"{min(entry['smallest_gap'] for entry in prompts):9.6f}  {case.name}")
    return {"name": case.name, "weights_sha256": digest(case), "prompts": prompts}


def _realistic(case: Case, path: Path) -> None:
    model, arrays = Model(case), dict[str, Any]()
    for index, text in enumerate(PROMPTS):
        entry, logits = _prompt(model, text)
        arrays |= {f"{name}_{index}": np.asarray(value) for name, value in entry.items()}
        arrays[f"logits_{index}"] = logits
        print(f"{entry['smallest_gap']:9.6f}  {case.name}, {len(entry['prompt'])} tokens")
    np.savez(path, **arrays)


def main() -> None:
    """Writes everything into the folder that the command line names."""
    output = Path(sys.argv[1])
    output.mkdir(parents=True, exist_ok=True)
    packages = ("numpy", "tokenizers", "torch", "transformers")
    reference = {
        "made_by": "tests/parity/families.py",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "cases": [_small(case) for case in CASES],
    }
    write_json(output / "families.json", reference)
    for case in REALISTIC if "--small" not in sys.argv else ():
        _realistic(case, output / f"{case.file_name}.npz")


if __name__ == "__main__":
    main()
