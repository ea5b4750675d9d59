"""A GGUF file and a Hugging Face folder of one model give the same decoder, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.families.cases import Case, write
from tests.families.catalogue import CASES
from tests.families.gguf_files import write_gguf

from cadenza.export import ExportError
from cadenza.export.exporter import Export, open_source
from cadenza.export.model import FloatArray

NAMES = (
    "gpt2",
    "gpt2 untied, exact gelu",
    "gpt_neox parallel",
    "llama grouped, tied",
    "qwen2 tied, older",
    "qwen2 untied, odd heads",
    "qwen3 tied, own head size",
)
BY_NAME = {case.name: case for case in CASES}


def weights(opened: Export) -> list[FloatArray]:
    blueprint = opened.blueprint
    return [blueprint.load(parts, opened.source) for parts in blueprint.weights.leaves()]


@pytest.mark.parametrize("name", NAMES)
def test_file_and_folder_give_the_same_weights(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    folder = open_source(write(case, tmp_path / "source"))
    file = open_source(write_gguf(case, tmp_path / "model.gguf"))
    assert file.blueprint.family == folder.blueprint.family
    for found, expected in zip(weights(file), weights(folder), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in NAMES if "exact gelu" not in name])
def test_file_and_folder_give_the_same_settings(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    folder = open_source(write(case, tmp_path / "source")).blueprint.config
    file = open_source(write_gguf(case, tmp_path / "model.gguf")).blueprint.config
    assert file.norm_epsilon == np.float32(folder.norm_epsilon)  # GGUF holds a float32
    assert vars(file) | {"norm_epsilon": 0} == vars(folder) | {"norm_epsilon": 0}


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("gpt2", "attention__clamp_kqv", 8.0),
        ("gpt_neox parallel", "attention__max_alibi_bias", 8.0),
        ("gpt_neox parallel", "rope__scaling__type", "yarn"),
        ("qwen2 untied, odd heads", "rope__scaling__type", "yarn"),
        ("qwen2 untied, odd heads", "attention__sliding_window", 32),
        ("qwen3 tied, own head size", "attention__value_length", 16),
        ("qwen3 tied, own head size", "expert_count", 8),
        ("qwen3 tied, own head size", "rope__dimension_sections", 1),
    ],
)
def test_metadata_that_cannot_be_exported_is_refused_by_name(
    name: str, setting: str, value: Any, tmp_path: Path
) -> None:
    source = write_gguf(BY_NAME[name], tmp_path / "model.gguf", **{setting: value})
    with pytest.raises(ExportError, match=setting.replace("__", r"\.")):
        open_source(source)


def test_every_case_is_one_of_the_catalogue() -> None:
    kinds: set[Case] = {BY_NAME[name] for name in NAMES}
    assert {case.config["model_type"] for case in kinds} == {"gpt2", "gpt_neox", "llama", "qwen2", "qwen3"}
