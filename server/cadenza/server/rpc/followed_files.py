"""Files that are read anew when they change, for credentials that rotate while the server runs."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import structlog

from cadenza.server.errors import CredentialError
from cadenza.server.metrics import Metrics

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class FollowedFiles(Generic[_T]):
    """What was last read well from some files. Any thread may read `value`."""

    def __init__(self, kind: str, paths: Sequence[Path], read: Callable[[], _T]) -> None:
        """`kind` names them in logs and metrics. Reads at once; raises CredentialError, as `read` does."""
        self.kind = kind
        self._paths = tuple(paths)
        self._read = read
        self._tried = self._seen = self._signature()
        self.value = read()

    def look(self) -> bool:
        """Whether the files have changed and were read anew.

        They are read once they have been the same at two looks, so that a set of files that is being
        written is left alone. Raises CredentialError, once for a change; what was read before stays.
        """
        now = self._signature()
        before, self._seen = self._seen, now
        if now == self._tried or now != before:
            return False
        self._tried = now
        self.value = self._read()
        return True

    def _signature(self) -> _Signature:
        return tuple(map(_file_signature, self._paths))


class CredentialWatcher:
    """Looks at files regularly, as one task of the running loop; a log line and a metric tell of changes."""

    def __init__(self, files: Sequence[FollowedFiles[Any]], *, poll_seconds: float, metrics: Metrics) -> None:
        self._files = files
        self._poll_seconds = poll_seconds
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            for files in self._files:
                await self._look(files)

    async def _look(self, files: FollowedFiles[Any]) -> None:
        begin = time.monotonic()
        try:
            read = await asyncio.to_thread(files.look)
        except Exception as error:  # noqa: BLE001 whatever a file holds, all are followed on
            self._metrics.credential_reloads.labels(files.kind, "failed").inc()
            trace = None if isinstance(error, CredentialError) else error
            _log.error("credentials_not_reloaded", kind=files.kind, error=str(error), exc_info=trace)
            return
        if read:
            self._metrics.credential_reloads.labels(files.kind, "loaded").inc()
            _log.info("credentials_reloaded", kind=files.kind, seconds=round(time.monotonic() - begin, 6))


def read_file(path: Path, *, most_bytes: int) -> bytes:
    """A file's content. Raises CredentialError where it cannot be read or is larger than that."""
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise CredentialError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > most_bytes:
        raise CredentialError(f"{path} is larger than {most_bytes} bytes; is it the right file?")
    return content


def _file_signature(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the content does: also where a link in the path is pointed elsewhere."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
