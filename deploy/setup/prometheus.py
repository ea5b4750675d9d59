"""Brings prometheus and promtool for checks: `python -m deploy.setup.prometheus` prints their folder.

What is on PATH is taken. Else Debian's or Ubuntu's package is downloaded by apt-get, which checks its
signature, and unpacked into .cache/tools: nothing is installed, and no root is needed.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from deploy.demo.models import CACHE
from deploy.demo.packages import FetchError

PROGRAMS: Final = ("prometheus", "promtool")
_UNPACKED: Final = CACHE / "tools" / "prometheus"


def ensure_prometheus() -> Path:
    """Returns the folder of both, fetched at the first call. Raises `FetchError` where they cannot be had."""
    installed = shutil.which("promtool")
    if installed and shutil.which("prometheus"):
        return Path(installed).parent
    if not _UNPACKED.is_dir():
        _UNPACKED.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=_UNPACKED.parent) as scratch:
            _unpack(_download(Path(scratch)), Path(scratch, "package"))
    return _UNPACKED / "usr" / "bin"


def _download(folder: Path) -> Path:
    """The package's archive. Lists of packages of the machine that are absent or too old are no hindrance."""
    lists = [f"-o=Dir::State::lists={folder}/lists", f"-o=Dir::Cache={folder}/cache"]
    download = ("apt-get", "download", "-o=APT::Sandbox::User=root", "prometheus")
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    if not _ran(*download, folder=folder):
        _ran("apt-get", "update", *lists, folder=folder)
        _ran(*download, *lists, folder=folder)
    archives = list(folder.glob("prometheus_*.deb"))
    if not archives:
        raise FetchError(
            "Prometheus is neither on PATH nor to be had by `apt-get download prometheus`: install it "
            "(https://prometheus.io/download) and put prometheus and promtool on PATH."
        )
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    """What is in its place is whole: it gets there in one rename."""
    if not _ran("dpkg-deb", "--extract", archive.name, folder.name, folder=archive.parent):
        raise FetchError(f"{archive.name} cannot be unpacked: dpkg-deb is needed")
    for program in PROGRAMS:
        if not _ran(str(folder / "usr" / "bin" / program), "--version", folder=folder):
            raise FetchError(
                f"{program} of {archive.name} does not run here: install Prometheus and put it on PATH"
            )
    try:
        folder.rename(_UNPACKED)
    except OSError:
        if not _UNPACKED.is_dir():  # else another process was faster
            raise


def _ran(*command: str, folder: Path) -> bool:
    """Whether it could be started and ended well."""
    try:
        return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        print(ensure_prometheus())
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
