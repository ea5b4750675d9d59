"""The rule that chooses lanes, on machines described by the files that Linux shows."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadenza.server.runner.lanes import choose_lanes, most_lanes_by_rows
from cadenza.server.runner.topology import Topology, read_topology

MANY = 1024
"""Lanes: more than cores on any machine here."""


def machine(root: Path, *, nodes: int, cores: int, threads: int = 2) -> Path:
    """Writes the files of a machine of `cores` cores a node; hyper-threads are numbered as Linux does: the
    first threads of all cores, then the second ones.
    """
    write(root / "proc/self/cgroup", "0::/\n")
    total = nodes * cores
    for node in range(nodes):
        first = [f"{thread * total + node * cores}" for thread in range(threads)]
        last = [f"{thread * total + node * cores + cores - 1}" for thread in range(threads)]
        spans = ",".join("-".join(span) for span in zip(first, last, strict=True))
        write(root / f"sys/devices/system/node/node{node}/cpulist", f"{spans}\n")
    for core, thread in itertools.product(range(total), range(threads)):
        siblings = ",".join(str(core + sibling * total) for sibling in range(threads))
        folder = root / f"sys/devices/system/cpu/cpu{core + thread * total}/topology"
        write(folder / "thread_siblings_list", f"{siblings}\n")
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("nodes", "cores", "threads", "described", "lanes"),
    [
        (1, 1, 1, (1,), 1),
        (1, 2, 1, (2,), 2),
        (1, 4, 2, (4,), 4),
        (1, 8, 2, (8,), 7),
        (1, 32, 2, (32,), 31),
        (2, 48, 2, (48, 48), 47),
    ],
)
def test_a_lane_runs_on_each_physical_core_of_one_node_and_many_cores_leave_one_to_the_loop(
    tmp_path: Path, nodes: int, cores: int, threads: int, described: Sequence[int], lanes: int
) -> None:
    root = machine(tmp_path, nodes=nodes, cores=cores, threads=threads)
    topology = read_topology(root, range(nodes * cores * threads))
    assert topology == Topology(tuple(described))
    assert choose_lanes(topology, MANY) == lanes


def test_cores_that_the_process_may_not_use_do_not_count(tmp_path: Path) -> None:
    root = machine(tmp_path, nodes=2, cores=8)
    # Of the first node both threads of cores 0 and 1, of the second one thread of cores 8, 9 and 10.
    assert read_topology(root, {0, 1, 16, 17, 8, 9, 26}) == Topology((3, 2))
    assert read_topology(root, {8}) == Topology((1,))


def test_a_node_of_memory_alone_is_no_node_to_compute_on(tmp_path: Path) -> None:
    root = machine(tmp_path, nodes=1, cores=4)
    write(root / "sys/devices/system/node/node1/cpulist", "\n")
    assert read_topology(root, range(8)) == Topology((4,))


def test_what_a_sandbox_hides_is_taken_as_one_node_of_cores_without_hyper_threads(tmp_path: Path) -> None:
    assert read_topology(tmp_path, range(6)) == Topology((6,))


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000"}, math.inf),
        ({"cpu.max": "350000 100000"}, 3.5),
        ({"pod/cpu.max": "400000 100000", "pod/box/cpu.max": "max 100000"}, 4.0),
        ({"pod/cpu.max": "400000 100000", "pod/box/cpu.max": "100000 50000"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ({"cpu/slice/cpu.cfs_quota_us": "150000", "cpu/slice/cpu.cfs_period_us": "100000"}, 1.5),
    ],
)
def test_the_least_quota_of_all_groups_around_the_process_counts(
    tmp_path: Path, files: dict[str, str], quota: float
) -> None:
    root = machine(tmp_path, nodes=1, cores=8)
    write(root / "proc/self/cgroup", "4:cpu,cpuacct:/slice\n0::/pod/box\n")
    for name, text in files.items():
        write(root / "sys/fs/cgroup" / name, f"{text}\n")
    assert read_topology(root, range(16)).cpu_quota == quota


@pytest.mark.parametrize(("quota", "lanes"), [(0.5, 1), (1.9, 1), (4.0, 4), (8.0, 7), (64.0, 31)])
def test_a_quota_bounds_lanes_by_whole_cpus(quota: float, lanes: int) -> None:
    assert choose_lanes(Topology((32,), quota), MANY) == lanes


@pytest.mark.parametrize(("step_tokens", "lanes"), [(2, 1), (64, 8), (128, 16), (256, 31)])
def test_no_lane_is_there_that_the_largest_step_has_too_few_rows_for(step_tokens: int, lanes: int) -> None:
    assert choose_lanes(Topology((32,)), most_lanes_by_rows(step_tokens)) == lanes


@given(
    cores=st.lists(st.integers(1, 256), min_size=1, max_size=8).map(tuple),
    quota=st.floats(0.1, 1024) | st.just(math.inf),
    most=st.integers(0, 1024),
)
def test_a_larger_machine_never_has_fewer_lanes(cores: tuple[int, ...], quota: float, most: int) -> None:
    lanes = choose_lanes(Topology(cores, quota), most)
    assert 1 <= lanes <= max(cores)
    larger = Topology((max(cores) + 1, *cores), quota + 1)
    assert choose_lanes(larger, most + 1) >= lanes


def test_this_machine_has_a_lane() -> None:
    topology = read_topology()
    assert sum(topology.node_cores) >= 1
    assert choose_lanes(topology, MANY) >= 1
