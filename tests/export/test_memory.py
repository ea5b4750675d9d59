"""An export of a model of usual size stays within a few copies of its weights."""

import sys
from pathlib import Path

from tests.bench.export import MOST_OWN_COPIES, export, gpt2_small
from tests.memory import run


def test_gpt2_small_is_exported_within_two_times_its_float32_size_beside_tensorflow(tmp_path: Path) -> None:
    tensorflow = run([sys.executable, "-c", "import tensorflow"])
    used, float32_size = export(gpt2_small(tmp_path), tmp_path / "models" / "gpt2-small" / "1", "int8")
    assert float32_size == 4 * 124_439_808
    assert used.peak - tensorflow.peak < MOST_OWN_COPIES * float32_size
