"""The rivals' environments: one each below .cache/rivals, from PyPI, by pinned versions."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.demo.models import CACHE, ROOT

RIVALS: Final = CACHE / "rivals"
_REQUIREMENTS: Final = Path(__file__).parent / "requirements"
_SECONDS: Final = 3600.0
_LAST_LINES: Final = 4


class InstallError(Exception):
    """A rival cannot be had here; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """What one rival is installed from."""

    name: str
    requirements: Path
    build: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Variables for packages that are compiled; they are kept out of pip's cache then."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return RIVALS / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


ENVIRONMENTS: Final = {
    environment.name: environment
    for environment in (
        Environment("openvino", _REQUIREMENTS / "openvino.txt"),
        Environment("vllm", _REQUIREMENTS / "vllm.txt"),
        Environment("llama.cpp", _REQUIREMENTS / "llama_cpp.txt", {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}),
        Environment("xllamacpp", _REQUIREMENTS / "xllamacpp.txt"),
        Environment("ctranslate2", _REQUIREMENTS / "ctranslate2.txt"),
        Environment("transformers", ROOT / "tests" / "parity" / "requirements.txt"),
    )
}


def ensure(environment: Environment) -> None:
    """Installs what is not there, or was installed from other pins; the files list dependencies too.

    Takes minutes, at a low priority. Raises InstallError where pip fails.
    """
    stamp = environment.folder / "installed.txt"
    wanted = environment.requirements.read_text(encoding="utf-8") + str(dict(environment.build))
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(environment.folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(environment.folder)], {})
    pip = [str(environment.python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    uncached = ["--no-cache-dir"] if environment.build else []
    _run([*pip, *uncached, "--no-deps", "--requirement", str(environment.requirements)], environment.build)
    stamp.write_text(wanted, encoding="utf-8")


def _run(command: list[str], variables: Mapping[str, str]) -> None:
    try:
        subprocess.run(
            ["nice", *command],
            env=os.environ | variables,
            check=True,
            text=True,
            capture_output=True,
            timeout=_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        raise InstallError(f"could not be installed: {' / '.join(lines[-_LAST_LINES:])}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"could not be installed: {error}") from error
