"""After swaps the memory of the server and of its processes is what it was before."""

from pathlib import Path

import pytest
from tests.bench.swap import ON_TENSORFLOW, Versions
from tests.swaps import MOST_GROWTH, swap_all


@pytest.mark.timeout(900)  # four times TensorFlow starts and compiles
def test_three_swaps_leave_as_much_memory_resident_as_there_was(tiny_artifact: Path, tmp_path: Path) -> None:
    """What XLA compiles for a version stays in its process: in a single one it were 186 of 945 MiB."""
    versions = Versions("tiny", 400, {"tiny": tiny_artifact}, ON_TENSORFLOW)
    resident, said = swap_all(versions, tmp_path, last=4)
    assert max(resident.values()) <= MOST_GROWTH * resident[1], resident
    assert said[1] == said[2] == said[3] == said[4]
