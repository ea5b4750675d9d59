"""A Hugging Face folder as a source: config.json, safetensors (one file, or shards and index), tokenizer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors then reads
import numpy as np
from safetensors import SafetensorError, safe_open

from cadenza.export.errors import SourceError, TensorError
from cadenza.export.model import FloatArray, Shape
from cadenza.export.settings import Settings

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FORMATS = ("F32", "F16", "BF16")


class HuggingFaceFolder:
    """An opened model folder; its tensors stay on disk until they are read.

    With `weights=False` the folder needs no weight files and none are looked at: it has no tensors then.

    Raises:
        SourceError: a file that every such folder has is missing or damaged.
    """

    def __init__(self, path: Path, *, weights: bool = True) -> None:
        self._path = path
        self.settings = Settings(self.json("config.json"), "config.json")
        self._formats: dict[str, str] = {}
        self._shapes: dict[str, Shape] = {}
        self._file_of: dict[str, Path] = {}
        for file in self._weight_files() if weights else ():
            self._index(file)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._path.resolve().name

    @property
    def files(self) -> Sequence[Path]:
        """The safetensors files, sorted."""
        return sorted(set(self._file_of.values()))

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """All tensors of all files."""
        return self._shapes

    def read(self, name: str) -> FloatArray:
        """One tensor as float32.

        Raises:
            TensorError: its number format is none of float32, float16, bfloat16.
        """
        if self._formats[name] not in _FORMATS:
            raise TensorError(
                f"tensor {name} has the number format {self._formats[name]}; it must be one of "
                + ", ".join(_FORMATS)
            )
        with safe_open(self._file_of[name], framework="numpy") as file:
            return np.asarray(file.get_tensor(name)).astype(np.float32, copy=False)

    @property
    def has_weights(self) -> bool:
        """Whether there are weight files, or an index that names some."""
        return any((self._path / name).exists() for name in (_SINGLE, _INDEX))

    def text(self, name: str) -> str | None:
        """A text file of the folder, None where there is none.

        Raises:
            SourceError: it is no UTF-8 text, or cannot be read.
        """
        try:
            return (self._path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{self._path / name} cannot be read: {error}") from error

    def json(self, name: str, *, required: bool = True) -> dict[str, object]:
        """A JSON object of the folder, empty where it is absent and not required.

        Raises:
            SourceError: it is missing, or no JSON object.
        """
        text = self.text(name)
        if text is None:
            if required:
                raise SourceError(f"{self._path / name} is missing; a Hugging Face model folder has it")
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self._path / name} is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"{self._path / name} must hold a JSON object")
        return value

    def _weight_files(self) -> list[Path]:
        if not (self._path / _INDEX).exists():
            if not (self._path / _SINGLE).exists():
                raise SourceError(f"{self._path} has neither {_SINGLE} nor {_INDEX}")
            return [self._path / _SINGLE]
        shards = self.json(_INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise SourceError(f"{self._path / _INDEX} has no weight_map")
        names = sorted({str(name) for name in shards.values()})
        for name in names:
            if Path(name).name != name or not (self._path / name).is_file():
                raise SourceError(
                    f"{self._path / _INDEX} names the file {name!r}, which is not in the folder"
                )
        return [self._path / name for name in names]

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  no mapping
                    if name in self._file_of:
                        raise SourceError(
                            f"tensor {name} is both in {self._file_of[name].name} and {path.name}"
                        )
                    tensor = file.get_slice(name)
                    self._file_of[name] = path
                    self._formats[name] = tensor.get_dtype()
                    self._shapes[name] = tuple(tensor.get_shape())
        except (OSError, SafetensorError) as error:
            raise SourceError(f"{path} is no readable safetensors file, or is cut off: {error}") from error
