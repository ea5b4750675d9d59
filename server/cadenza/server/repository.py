"""Model versions on disk: whether their files are whole, and what their manifests say.

Nothing of an artifact is used before every one of its checksums is right.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from google.protobuf import json_format

from cadenza.server.errors import ArtifactError
from cadenza.v1.manifest_pb2 import ModelManifest, Precision

CONTRACT_VERSION = 3
_HASH_THREADS = 2
_EXTRA = "assets.extra"
_SUMS = f"{_EXTRA}/SHA256SUMS"


@dataclasses.dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version folder to serve under a name."""

    name: str
    version: int
    path: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """A version whose files are whole and whose manifest is understood."""

    name: str
    version: int
    path: Path
    manifest: ModelManifest
    chat_template: str | None

    @property
    def cpu_precision(self) -> str:
        """Of the CPU program's weights: int8, float32, ..."""
        return Precision.Name(self.manifest.cpu.precision).removeprefix("PRECISION_").lower()

    @property
    def tokenizer_path(self) -> Path:
        """tokenizer.json."""
        return self.path / _EXTRA / "tokenizer.json"

    @property
    def cpu_dir(self) -> Path:
        """The folder of the CPU program."""
        return self.path / _EXTRA / "cpu"


def load_artifact(version: ModelVersion) -> Artifact:
    """Checks every file of a version and reads its manifest and chat template. Raises ArtifactError."""
    _verify_checksums(version.path)
    manifest = _read_manifest(version.path / _EXTRA / "manifest.json")
    _require(version.path, manifest)
    template = version.path / _EXTRA / "chat_template.jinja"
    return Artifact(
        name=version.name,
        version=version.version,
        path=version.path,
        manifest=manifest,
        chat_template=template.read_text(encoding="utf-8") if template.exists() else None,
    )


def missing_files(path: Path) -> str:
    """What a version that is being copied still lacks, in words; empty where every listed file is there."""
    if not (path / _SUMS).exists():
        return _SUMS
    try:
        listed = _read_sums(path)
    except ArtifactError:
        return ""  # nothing that waiting mends: loading says what is wrong
    missing = [name for name in listed if not (path / name).exists()]
    return f"{len(missing)} of {len(listed)} files, {missing[0]} first" if missing else ""


def _verify_checksums(root: Path) -> None:
    sums = _read_sums(root)
    present = {
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() or path.is_symlink()
    }
    for name in sorted(sums.keys() - present):
        raise ArtifactError(
            f"{root / name} is missing, though {_SUMS} lists it; export or copy the model again"
        )
    for name in sorted(present - sums.keys() - {_SUMS}):
        raise ArtifactError(f"{root / name} is not listed in {_SUMS}; remove it or export the model again")
    largest_first = sorted(sums, key=lambda name: (root / name).stat().st_size, reverse=True)
    with ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="checksum") as threads:
        digests = threads.map(lambda name: _sha256(root / name), largest_first)
        for name, digest in zip(largest_first, digests, strict=True):
            if digest != sums[name]:
                raise ArtifactError(
                    f"{root / name} is corrupted: sha256 {digest}, {_SUMS} says {sums[name]}; "
                    "export or copy the model again"
                )


def _read_sums(root: Path) -> dict[str, str]:
    path = root / _SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); a model folder is what cadenza-export writes"
        ) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is corrupted: it is not text") from error
    return dict(_parse_sums(path, lines))


def _parse_sums(path: Path, lines: list[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise ArtifactError(f"{path} is corrupted: line {number} is no checksum of a file in the folder")
        yield Path(match[2]).as_posix(), match[1]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _read_manifest(path: Path) -> ModelManifest:
    try:
        manifest = json_format.Parse(path.read_text(encoding="utf-8"), ModelManifest())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; a model folder is what cadenza-export writes") from None
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is no manifest that this server knows: {error}") from error
    if manifest.contract_version != CONTRACT_VERSION:
        raise ArtifactError(
            f"{path} has contract_version {manifest.contract_version}; this server serves version "
            f"{CONTRACT_VERSION}: export the model with the cadenza-export of the server's release"
        )
    return manifest


def _require(root: Path, manifest: ModelManifest) -> None:
    program = manifest.cpu
    files = [*program.segments, program.head, program.embedding, program.position_embedding]
    cpu = [f"cpu/{name}" for name in files if name]
    for name in ("tokenizer.json", *cpu):
        if not (root / _EXTRA / name).is_file():
            raise ArtifactError(f"{root / _EXTRA / name} is missing; export or copy the model again")
