"""Which versions of which models are wanted: those of a folder that changes, or those that flags name."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

import structlog

from cadenza.server.config import Settings
from cadenza.server.errors import ArtifactError
from cadenza.server.repository import ModelVersion, missing_files

_log = structlog.get_logger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_RULE = "use up to 128 letters, digits, '.', '_' and '-', no '.' at the start"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

Served = Mapping[str, AbstractSet[int]]
"""Version numbers by model name."""
_Files = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and time of the last change (ns) of every file of a version."""


class ModelSource(Protocol):
    """Says what should be served. Used by one thread at a time."""

    def wanted(self, served: Served, *, settled: bool) -> dict[str, list[ModelVersion]]:
        """The versions to serve by model name, newest first; none for a model that is there without any.

        A version in `served` needs no look at its files. `settled` leaves out others that have changed since
        the last look, for they are being copied. Raises ArtifactError where nothing can be said.
        """

    def refuse(self, version: ModelVersion) -> None:
        """The version could not be loaded: it is not wanted again until its files change."""

    def forgive(self) -> None:
        """What was refused is wanted again."""


def choose_source(settings: Settings) -> ModelSource:
    """The source that the settings ask for."""
    if settings.models is not None:
        return ModelsFolder(settings.models, settings.pins)
    return NamedVersions(settings.model)


class NamedVersions:
    """The versions that --model NAME=PATH names, always the same. Implements ModelSource."""

    def __init__(self, flags: tuple[str, ...]) -> None:
        self._flags = flags
        self._refused: set[ModelVersion] = set()

    def wanted(self, served: Served, *, settled: bool) -> dict[str, list[ModelVersion]]:  # noqa: ARG002
        """Those that were not refused. Raises ArtifactError where a flag names none, or two the same."""
        versions = sorted(map(_parse_model_flag, self._flags), key=lambda version: version.name)
        for one, other in itertools.pairwise(versions):
            if one.name == other.name:
                raise ArtifactError(f"--model names {one.name} twice; give every model a name of its own")
        return {one.name: [] if one in self._refused else [one] for one in versions}

    def refuse(self, version: ModelVersion) -> None:
        """It is not wanted until `forgive`."""
        self._refused.add(version)

    def forgive(self) -> None:
        """All are wanted again."""
        self._refused.clear()


@dataclasses.dataclass(slots=True)
class _Seen:
    """What is remembered of a version between two looks."""

    files: _Files | None = None
    """None: some are missing."""
    refused: _Files | None = None
    """The files that could not be loaded."""
    said: bool = False
    """It was logged that files are missing."""


class ModelsFolder:
    """NAME/VERSION folders under one root. Implements ModelSource.

    Of every model the highest version is wanted that is whole and was not refused, or all that are pinned.
    """

    def __init__(self, root: Path, pins: Mapping[str, tuple[int, ...]]) -> None:
        self._root = root
        self._pins = pins
        self._seen: dict[ModelVersion, _Seen] = {}
        self._complaints: set[str] = set()
        """Logged already."""

    def wanted(self, served: Served, *, settled: bool) -> dict[str, list[ModelVersion]]:
        """Raises ArtifactError where the root is not there."""
        wanted: dict[str, list[ModelVersion]] = {}
        there: set[ModelVersion] = set()
        for folder in self._model_folders():
            versions = self._versions(folder)
            there.update(versions)
            numbers = served.get(folder.name, frozenset())
            usable = (one for one in versions if one.version in numbers or self._is_usable(one, settled))
            count = None if folder.name in self._pins else 1
            wanted[folder.name] = list(itertools.islice(usable, count))
        self._seen = {version: seen for version, seen in self._seen.items() if version in there}
        return wanted

    def refuse(self, version: ModelVersion) -> None:
        """The version is not wanted until its files change."""
        seen = self._seen.setdefault(version, _Seen())
        seen.refused = seen.files

    def forgive(self) -> None:
        """Refused versions are wanted again."""
        for seen in self._seen.values():
            seen.refused = None

    def _model_folders(self) -> Iterator[Path]:
        try:
            folders = sorted(path for path in self._root.iterdir() if path.is_dir())
        except OSError as error:
            raise ArtifactError(
                f"--models {self._root} cannot be read ({error.strerror}); "
                "give the folder that holds NAME/VERSION"
            ) from error
        for folder in folders:
            if _NAME.fullmatch(folder.name):
                yield folder
            elif not folder.name.startswith("."):
                self._complain(f"{folder} is no model: {_NAME_RULE}")
        missing = self._pins.keys() - {folder.name for folder in folders}
        for name in sorted(missing):
            self._complain(f"--pin names {name}, and {self._root} has no such model")

    def _versions(self, folder: Path) -> list[ModelVersion]:
        """Newest first; those that are pinned where some are."""
        try:
            numbers = {
                int(path.name) for path in folder.iterdir() if _NUMBER.fullmatch(path.name) and path.is_dir()
            }
        except OSError:
            numbers = set()  # removed meanwhile
        pins = self._pins.get(folder.name)
        if pins is not None:
            for number in sorted(set(pins) - numbers):
                self._complain(f"--pin names version {number} of {folder.name}, and {folder} has none such")
            numbers &= set(pins)
        return [ModelVersion(folder.name, one, folder / str(one)) for one in sorted(numbers, reverse=True)]

    def _is_usable(self, version: ModelVersion, settled: bool) -> bool:
        seen = self._seen.setdefault(version, _Seen())
        before, seen.files = seen.files, self._files(version, seen)
        if seen.files is None or seen.files == seen.refused:
            return False
        return not settled or seen.files == before

    def _files(self, version: ModelVersion, seen: _Seen) -> _Files | None:
        try:
            missing = missing_files(version.path)
            stats = [(path, path.stat()) for path in sorted(version.path.rglob("*"))]
        except OSError as error:  # removed meanwhile, or not to be read
            missing, stats = f"{error.filename}: {error.strerror}", []
        if missing:
            if not seen.said:
                _log.info("version_incomplete", model=version.name, version=version.version, missing=missing)
                seen.said = True
            return None
        return tuple((str(path), one.st_size, one.st_mtime_ns) for path, one in stats)

    def _complain(self, problem: str) -> None:
        if problem not in self._complaints:
            self._complaints.add(problem)
            _log.warning("models_folder", problem=problem)


def _parse_model_flag(text: str) -> ModelVersion:
    name, equals, path_text = text.partition("=")
    path = Path(path_text).resolve()
    if not equals or not path_text:
        raise ArtifactError(f"--model {text} is not NAME=PATH, such as smollm=models/smollm2-135m/1")
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"{name!r} is no model name; {_NAME_RULE}")
    if not _NUMBER.fullmatch(path.name):
        raise ArtifactError(f"--model {text}: the path must end in a version number, such as models/{name}/1")
    return ModelVersion(name, int(path.name), path)
