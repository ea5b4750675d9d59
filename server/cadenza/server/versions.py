"""The states that versions of models go through, in TensorFlow Serving's words, and a book of them."""

import dataclasses
import enum

REMEMBERED_ENDS = 64
"""Versions that have ended, over all models, whose last state can still be asked for."""


class VersionState(enum.IntEnum):
    """Numbered as `tensorflow.serving.ModelVersionStatus.State`."""

    START = 10
    """Found, and not being loaded yet."""
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    """Finishes the requests it has; others go to another version."""
    END = 50
    """Unloaded, or never loaded because of an error."""


@dataclasses.dataclass(frozen=True, slots=True)
class VersionStatus:
    """Where a version stands."""

    name: str
    version: int
    state: VersionState
    error: str | None = None
    """Why it could not be loaded."""


class VersionBook:
    """What is known of every version, those that have ended too, as far back as it remembers."""

    def __init__(self) -> None:
        self._statuses: dict[tuple[str, int], VersionStatus] = {}
        """Those that changed last at the end."""

    def write(self, status: VersionStatus) -> None:
        """Takes down a change."""
        key = status.name, status.version
        self._statuses.pop(key, None)
        self._statuses[key] = status
        ended = [key for key, one in self._statuses.items() if one.state is VersionState.END]
        for forgotten in ended[:-REMEMBERED_ENDS]:
            del self._statuses[forgotten]

    def status(self, name: str, version: int) -> VersionStatus | None:
        """Where a version stands; None where nothing is known of it."""
        return self._statuses.get((name, version))

    def statuses(self, name: str) -> list[VersionStatus]:
        """All that is known of a model, by version."""
        found = [status for status in self._statuses.values() if status.name == name]
        return sorted(found, key=lambda status: status.version)
