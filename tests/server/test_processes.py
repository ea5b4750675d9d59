"""What the processes that this one has started have in memory is known."""

import os
import subprocess
import sys
from pathlib import Path

from cadenza.server.processes import children_resident_bytes

HOLDS_64_MIB = "held = bytearray(64 << 20); print('held', flush=True); input()"


def test_the_memory_of_a_child_counts_until_it_ends() -> None:
    before = children_resident_bytes()
    command = [sys.executable, "-c", HOLDS_64_MIB]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert before + (64 << 20) < children_resident_bytes() < before + (128 << 20)
    assert children_resident_bytes() < before + (64 << 20)


def test_a_name_with_brackets_and_spaces_is_no_field(tmp_path: Path) -> None:
    resident = f"7 (a) b (c) S {os.getpid()} {'0 ' * 19}5 0"
    for number, text in ((7, resident), (8, resident.replace(f" {os.getpid()} ", " 1 "))):
        (tmp_path / "proc" / str(number)).mkdir(parents=True)
        (tmp_path / "proc" / str(number) / "stat").write_text(text)
    assert children_resident_bytes(tmp_path) == 5 * os.sysconf("SC_PAGE_SIZE")
