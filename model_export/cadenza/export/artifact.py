"""The output folder: written aside under a hidden name, checksummed, and moved into place when whole."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format

from cadenza.export.errors import ArtifactError, OutputError
from cadenza.v1.manifest_pb2 import ModelManifest

CONTRACT_VERSION = 3
EXTRA = "assets.extra"
CHECKSUMS = f"{EXTRA}/SHA256SUMS"


@contextlib.contextmanager
def new_artifact(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place when the block ends; removed if it fails.

    Raises:
        OutputError: `output` is no version folder, exists (without `overwrite`), or cannot be written.
    """
    check_output(output, overwrite=overwrite)
    created = [folder for folder in output.parents if not folder.exists()]
    work = output.parent / f".{output.name}.partial-{os.getpid()}"
    try:
        work.mkdir(parents=True)
        yield work
        _move(work, output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error}") from error
    finally:
        if work.exists():
            shutil.rmtree(work)
        if not output.exists():
            _remove_empty(created)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuses an output before any work is done for it.

    Raises:
        OutputError: it is no version folder, or exists and may not be overwritten.
    """
    if not (
        output.name.isascii() and output.name.isdecimal() and str(int(output.name)) == output.name != "0"
    ):
        raise OutputError(f"--output {output} must end in a version number (1, 2, ...): MODELS/NAME/VERSION")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"--output {output} exists and is no folder")
    if output.exists() and not overwrite:
        raise OutputError(
            f"--output {output} exists; give the next version number, or --overwrite to replace it"
        )


def write_checksums(folder: Path) -> None:
    """Writes SHA256SUMS over every other file below the folder, in the form that `sha256sum -c` reads."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if name != CHECKSUMS]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def checksum_errors(folder: Path) -> list[str]:
    """What SHA256SUMS and the files below the folder do not agree on, one line each; empty if they do."""
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [f"{CHECKSUMS} cannot be read: {error}"]
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    errors = [f"{name} is missing" for name in sorted(expected.keys() - present)]
    errors += [f"{name} is not listed" for name in sorted(present - expected.keys() - {CHECKSUMS})]
    common = sorted(expected.keys() & present)
    return errors + [f"{name} is corrupted" for name in common if sha256(folder / name) != expected[name]]


def read_manifest(folder: Path) -> ModelManifest:
    """The manifest of an artifact.

    Raises:
        ArtifactError: there is none that this release knows.
    """
    path = folder / EXTRA / "manifest.json"
    try:
        manifest = json_format.Parse(path.read_text(encoding="utf-8"), ModelManifest())
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); give a version folder") from error
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is no manifest that this release knows: {error}") from error
    if manifest.contract_version != CONTRACT_VERSION:
        raise ArtifactError(
            f"{path} has contract_version {manifest.contract_version}; this release knows "
            f"{CONTRACT_VERSION}: export the model again"
        )
    return manifest


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(folder: Path) -> int:
    """Bytes of all files below the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _move(work: Path, output: Path) -> None:
    if not output.exists():
        work.rename(output)
        return
    replaced = work.with_name(f"{work.name}-replaced")
    output.rename(replaced)
    work.rename(output)
    shutil.rmtree(replaced)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
