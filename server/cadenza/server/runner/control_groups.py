"""Where this process's control groups keep their files: the limits that containers are given."""

from collections.abc import Iterator
from pathlib import Path

VERSION_2 = ""
"""As a controller: version 2's one hierarchy, which has all controllers."""


def group_folders(root: Path, controller: str) -> Iterator[Path]:
    """The folder of this process's group and those of the groups around it, innermost first.

    `controller` is one of version 1, such as "memory", or VERSION_2; `root` is the folder that holds proc/
    and sys/. Folders need not be there: a container may see its group at the mount, whatever the path is.
    """
    mount = root / "sys/fs/cgroup" / controller
    for line in _memberships(root):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = mount / path.lstrip("/")
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(mount))


def _memberships(root: Path) -> list[str]:
    """Lines of hierarchy:controllers:path; none where the system has no control groups."""
    try:
        return (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
