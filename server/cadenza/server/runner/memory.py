"""How much memory this process has and can still get, by what Linux says; a KV cache's share of it."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from cadenza.server.runner.control_groups import VERSION_2, group_folders

_UNLIMITED = 1 << 60
"""A limit of version 1 that is as good as none."""
_LEAST_KV_BYTES = 256 << 20
_TYPICAL_CONTEXT = 1024
"""Tokens of prompt and completion: more than nine in ten chat replies have."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Version:
    """Where a version of Linux's control groups keeps its numbers."""

    controller: str
    limit: str
    usage: str
    reclaimable: str


_VERSIONS = (
    _Version(VERSION_2, "memory.max", "memory.current", "inactive_file"),
    _Version("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes that are in memory for this process (PSS): a page that is mapped n times, by whomever, counts
    1/n each time, so what lanes share counts once.
    """

    anonymous: int
    """The process's own: heaps, buffers, the KV cache as far as it was touched."""
    mapped: int
    """Pages of files: packed weights, embeddings, libraries."""

    def __sub__(self, other: "ProcessMemory") -> "ProcessMemory":
        return ProcessMemory(self.anonymous - other.anonymous, self.mapped - other.mapped)


def process_memory(root: Path = Path("/")) -> ProcessMemory | None:
    """What this process has now; None where the system does not tell, as sandboxes and old kernels.

    Takes milliseconds: the system walks its page tables. `root` is the folder that holds proc/.
    """
    try:
        lines = (root / "proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    if not {"Pss_Anon", "Pss_File", "Pss_Shmem"} <= kibibytes.keys():
        return None
    mapped = kibibytes["Pss_File"] + kibibytes["Pss_Shmem"]
    return ProcessMemory(anonymous=kibibytes["Pss_Anon"] << 10, mapped=mapped << 10)


def available_bytes(root: Path = Path("/")) -> int:
    """The least of what the machine and this process's control groups have left, page cache counted as free.

    `root` is the folder that holds proc/ and sys/.
    """
    return min(_machine_bytes(root), *_group_bytes(root), _UNLIMITED)


def default_kv_bytes(max_context: int, max_sequences: int, token_bytes: int) -> int:
    """A KV cache of max_sequences of 1,024 tokens, or of one whole context where that is more.

    At least 256 MiB, and beyond those at most a quarter of the machine's memory.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    tokens = max(max_context, max_sequences * min(max_context, _TYPICAL_CONTEXT))
    return max(_LEAST_KV_BYTES, min(tokens * token_bytes, memory // 4))


def _machine_bytes(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise OSError(f"{root / 'proc/meminfo'} does not say MemAvailable")


def _group_bytes(root: Path) -> Iterator[int]:
    """What the limits of this process's control groups, and of those around them, leave."""
    for version in _VERSIONS:
        for group in group_folders(root, version.controller):
            yield from _left_in(group, version)


def _left_in(group: Path, version: _Version) -> Iterator[int]:
    try:
        limit = (group / version.limit).read_text(encoding="ascii").strip()
        used = int((group / version.usage).read_text(encoding="ascii"))
        statistics = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    if limit == "max" or int(limit) >= _UNLIMITED:
        return
    name = f"{version.reclaimable} "
    reclaimable = next((int(line.split()[1]) for line in statistics if line.startswith(name)), 0)
    yield max(0, int(limit) - used + reclaimable)
