"""The processor as Linux describes it: how many physical cores of which NUMA nodes this process may use."""

import dataclasses
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from cadenza.server.runner.control_groups import VERSION_2, group_folders


@dataclasses.dataclass(frozen=True, slots=True)
class Topology:
    """What this process may compute on."""

    node_cores: tuple[int, ...]
    """Physical cores by NUMA node. A core counts where the process may run on one of its hyper-threads, and
    a node where it has such a core.
    """
    cpu_quota: float = math.inf
    """CPUs whose time the control groups grant."""


def read_topology(root: Path = Path("/"), affinity: Collection[int] | None = None) -> Topology:
    """This machine's; `root` is the folder that holds proc/ and sys/.

    `affinity` holds the CPUs that may be used: this process's own where it is None. What the files do not say
    is taken as simple: every CPU a core, all of them one node, no quota.
    """
    cpus = os.sched_getaffinity(0) if affinity is None else affinity
    cores = {_hyper_threads(root, cpu) for cpu in cpus}
    nodes = [_cpu_list(path) for path in (root / "sys/devices/system/node").glob("node[0-9]*/cpulist")]
    counts = sorted((sum(not core.isdisjoint(node) for core in cores) for node in nodes), reverse=True)
    used = tuple(count for count in counts if count)
    return Topology(used or (len(cores),), min(_quotas(root), default=math.inf))


def _hyper_threads(root: Path, cpu: int) -> frozenset[int]:
    """The CPUs of the core that `cpu` is one of."""
    return _cpu_list(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") | {cpu}


def _cpu_list(path: Path) -> frozenset[int]:
    """What a file such as "0-3,8" names; nothing where there is none."""
    cpus: set[int] = set()
    for part in filter(None, _read(path).split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _quotas(root: Path) -> Iterator[float]:
    """Microseconds of processor time by microseconds of a period, of each group that has a limit."""
    limits = [_read(group / "cpu.max").split() for group in group_folders(root, VERSION_2)]
    limits += [
        [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
        for group in group_folders(root, "cpu")
    ]
    for quota, period in (limit for limit in limits if all(limit) and len(limit) == 2):
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
