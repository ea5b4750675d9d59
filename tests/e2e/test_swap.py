"""Real versions of the real model take each other's place in a server process, and memory comes back."""

from pathlib import Path

import pytest
from tests.bench.swap import SMOLLM2
from tests.swaps import MOST_GROWTH, swap_all


@pytest.mark.usefixtures("real_int8", "real_float32")
def test_memory_is_given_back_and_each_version_says_what_it_said_before(tmp_path: Path) -> None:
    """Versions 1 and 3 are int8, 2 is float32."""
    resident, said = swap_all(SMOLLM2, tmp_path, last=3)
    assert resident[3] <= MOST_GROWTH * resident[1]
    assert said[1] == said[3] != said[2]
