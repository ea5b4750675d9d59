"""Small seeded models of every family, written as Hugging Face folders by NumPy alone.

Read by the exporter's tests and by the oracle (tests/parity/families.py), which runs the same folders in
transformers: so this module needs nothing that either environment lacks.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import TensorSpec, serialize_file
from tests.export.tiny import TEMPLATE, tokenizer
from tests.families import shapes

Float32 = npt.NDArray[np.float32]
Weights = dict[str, Float32]
Config = Mapping[str, Any]

PROMPTS: Final = (
    "fox",
    "def fibonacci(n):\n    return",
    "The quick brown fox jumps over 12 lazy dogs; 東京",
    "It's what foxes do, 1234 times a day: jump, naïve café, and emoji 🦊 are bytes too.\n\n\tn",
)
"""Of 2 to some 60 tokens; the second starts a line's indentation, the last ends amid a word."""
GREEDY_TOKENS: Final = 64
LOGIT_ROWS: Final = 16
LOGIT_COLUMNS: Final = 13
"""The reference keeps every sixteenth row of logits, from the last one, and every thirteenth column."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One model: what its config.json says, and how its weights are made and stored."""

    name: str
    config: Config
    seed: int = 1
    storage: str = "float32"
    shards: int = 1
    prefix: str | None = None
    """Replaces the prefix of GPT-2's tensor names, `transformer.`."""

    @property
    def architecture(self) -> str:
        """Hugging Face's name of the family."""
        return str(self.config["architectures"][0])

    @property
    def file_name(self) -> str:
        """The name without what file systems and shells dislike."""
        return self.name.replace(",", "").replace(" ", "-")

    def weights(self) -> Iterator[tuple[str, Float32]]:
        """All weights by their names, rounded as they are stored; in the order of the file."""
        random = np.random.default_rng(self.seed)
        for name, tensor in shapes.tensors(self.config):
            values = tensor.mean + tensor.scale * random.standard_normal(tensor.shape, np.float32)
            if self.prefix is not None:
                name = name.replace("transformer.", self.prefix, 1)
            yield name, _decoded(_encoded(values.astype(np.float32), self.storage), self.storage)


def write(case: Case, folder: Path) -> Path:
    """Writes the model's folder and returns it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config))
    tokenizer().save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    stored = {name: _encoded(array, case.storage) for name, array in case.weights()}
    if case.shards == 1:
        _save(stored, case.storage, folder / "model.safetensors")
        return folder
    placed: dict[str, str] = {}
    for shard in range(case.shards):
        file = f"model-{shard + 1:05d}-of-{case.shards:05d}.safetensors"
        part = dict(list(stored.items())[shard :: case.shards])
        _save(part, case.storage, folder / file)
        placed |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def digest(case: Case) -> str:
    """A sha256 of all weights: tells a change of the weights from a change of what is computed from them."""
    sha256 = hashlib.sha256()
    for name, array in case.weights():
        sha256.update(name.encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def kept(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The part of logits [T, V] that the reference keeps."""
    return logits[::-1][::LOGIT_ROWS, ::LOGIT_COLUMNS]


def _encoded(array: Float32, storage: str) -> npt.NDArray[Any]:
    if storage == "float16":
        return array.astype(np.float16)
    if storage == "bfloat16":
        bits = array.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return array


def _decoded(stored: npt.NDArray[Any], storage: str) -> Float32:
    if storage == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def _save(tensors: dict[str, npt.NDArray[Any]], storage: str, path: Path) -> None:
    """Writes arrays that hold the bits of a number format which NumPy may not know."""
    specs = {
        name: TensorSpec(dtype=storage, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, array in tensors.items()
    }
    serialize_file(specs, path, {"format": "pt"})
