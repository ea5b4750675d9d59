"""What a process can still get, read from the files that Linux shows."""

from pathlib import Path

import pytest

from cadenza.server.runner.memory import available_bytes

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 8 GiB available and no control group."""
    write(tmp_path / "proc/meminfo", f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_group(group: Path, *, most: int, used: int, inactive_file: int) -> None:
    """A control group of version 2."""
    write(group / "memory.max", f"{most}\n")
    write(group / "memory.current", f"{used}\n")
    write(group / "memory.stat", f"anon 1\ninactive_file {inactive_file}\n")


def test_without_a_limit_it_is_what_the_machine_has(root: Path) -> None:
    write(root / "sys/fs/cgroup/memory.max", "max\n")
    assert available_bytes(root) == 8 * GIB


def test_a_limit_of_version_2_counts_page_cache_as_free(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/kube/pod\n")
    write_group(root / "sys/fs/cgroup/kube/pod", most=4 * GIB, used=3 * GIB, inactive_file=GIB)
    assert available_bytes(root) == 2 * GIB


def test_a_limit_around_the_group_counts_too(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/kube/pod\n")
    write_group(root / "sys/fs/cgroup/kube", most=4 * GIB, used=3 * GIB, inactive_file=0)
    assert available_bytes(root) == GIB


def test_limits_of_version_1_count(root: Path) -> None:
    write(root / "proc/self/cgroup", "5:cpu:/a\n4:memory:/a/b\n0::/\n")
    group = root / "sys/fs/cgroup/memory/a/b"
    write(group / "memory.limit_in_bytes", f"{6 * GIB}\n")
    write(group / "memory.usage_in_bytes", f"{5 * GIB}\n")
    write(group / "memory.stat", f"total_inactive_file {GIB}\n")
    assert available_bytes(root) == 2 * GIB


def test_a_group_over_its_limit_has_nothing_left(root: Path) -> None:
    group = root / "sys/fs/cgroup"
    write(group / "memory.max", f"{GIB}\n")
    write(group / "memory.current", f"{2 * GIB}\n")
    write(group / "memory.stat", "inactive_file 5\n")
    assert available_bytes(root) == 0


def test_this_machine_says_something() -> None:
    assert available_bytes() > 0
