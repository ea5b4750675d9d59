"""What the log says of a load: lanes and why so many, and the memory that came into use."""

from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from cadenza.server.runner.load_log import log_lanes, logged_memory, warn_of_unused_nodes
from cadenza.server.runner.memory import ProcessMemory, process_memory
from cadenza.server.runner.topology import Topology

MIB = 1 << 20


@pytest.mark.parametrize(("asked", "by"), [(False, "rule"), (True, "--lanes")])
def test_the_log_says_how_many_lanes_there_are_and_why(asked: bool, by: str) -> None:
    with capture_logs() as log:
        log_lanes("m", "native", 7, Topology((8,), cpu_quota=9.5), asked=asked)
    assert log == [
        {
            "event": "lanes",
            "log_level": "info",
            "model": "m",
            "runner": "native",
            "lanes": 7,
            "chosen_by": by,
            "cores_by_numa_node": (8,),
            "cpu_quota": 9.5,
        }
    ]


def test_a_machine_without_a_quota_has_none_in_the_log() -> None:
    with capture_logs() as log:
        log_lanes("m", "litert", 2, Topology((2,)), asked=False)
    assert log[0]["cpu_quota"] is None


def test_a_machine_of_several_nodes_is_warned_about_with_what_to_do() -> None:
    with capture_logs() as log:
        warn_of_unused_nodes(Topology((48,)))
        warn_of_unused_nodes(Topology((48, 48)))
    assert [(line["event"], line["log_level"]) for line in log] == [("numa_nodes_not_used_well", "warning")]
    assert "numactl --cpunodebind=N" in log[0]["advice"]


def test_memory_that_a_load_touches_is_its_own_and_what_it_maps_is_mapped(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * (32 * MIB))
    with capture_logs() as log, logged_memory("m", kv_cache_bytes=5):
        own = np.ones(64 * MIB, np.uint8)
        mapped = np.memmap(file, np.uint8, mode="r")
        assert int(mapped.sum(dtype=np.int64)) == ord("x") * mapped.size
    (line,) = log
    assert (line["event"], line["model"], line["most_kv_cache_bytes"]) == ("model_memory", "m", 5)
    assert line["own_bytes"] == pytest.approx(own.nbytes, abs=4 * MIB)
    assert line["mapped_bytes"] == pytest.approx(mapped.nbytes, abs=4 * MIB)


def test_what_is_mapped_twice_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * (32 * MIB))
    with capture_logs() as log, logged_memory("m", kv_cache_bytes=0):
        maps = [np.memmap(file, np.uint8, mode="r") for _ in range(3)]
        assert len({int(one.sum(dtype=np.int64)) for one in maps}) == 1
    assert log[0]["mapped_bytes"] == pytest.approx(maps[0].nbytes, abs=4 * MIB)


def test_memory_is_read_from_the_roll_up_of_the_mappings(tmp_path: Path) -> None:
    rollup = tmp_path / "proc/self/smaps_rollup"
    rollup.parent.mkdir(parents=True)
    rollup.write_text(
        "55e0-7fff ---p 00000000 00:00 0    [rollup]\n"
        "Rss: 900 kB\nPss: 350 kB\nPss_Anon: 100 kB\nPss_File: 200 kB\nPss_Shmem: 50 kB\n"
    )
    assert process_memory(tmp_path) == ProcessMemory(anonymous=100 << 10, mapped=250 << 10)


def test_systems_that_do_not_tell_have_none(tmp_path: Path) -> None:
    assert process_memory(tmp_path) is None
    rollup = tmp_path / "proc/self/smaps_rollup"
    rollup.parent.mkdir(parents=True)
    rollup.write_text("55e0-7fff ---p 00000000 00:00 0    [rollup]\nRss: 900 kB\nPss: 350 kB\n")
    assert process_memory(tmp_path) is None
