"""An export of a model of usual size stays within a few copies of its weights."""

from pathlib import Path

from tests.bench.export import MOST_COPIES, export, gpt2_small


def test_gpt2_small_is_exported_within_three_times_its_float32_size(tmp_path: Path) -> None:
    used, float32_size = export(gpt2_small(tmp_path), tmp_path / "models" / "gpt2-small" / "1", "int8")
    assert float32_size == 4 * 124_439_808
    assert used.peak < MOST_COPIES * float32_size
