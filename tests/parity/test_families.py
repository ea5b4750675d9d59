"""The committed answers of the families' oracle are what it says now; and models of realistic sizes."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.families.cases import PROMPTS, Case, write
from tests.families.catalogue import CASES, REALISTIC
from tests.families.conftest import REFERENCE, assert_equals_reference, read_references
from tests.real.checks import LogitsFunction
from tests.real.cpu_program import load_runner
from tests.real.saved_model import load_logits

from cadenza.export.exporter import export
from cadenza.export.model import Precision

LARGEST_DIFFERENCE = 1e-4


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: CASES[index].file_name)
def test_answers_on_small_models_are_the_committed_ones(oracle_output: Path, index: int) -> None:
    now, committed = (
        json.loads(path.read_text(encoding="utf-8"))["cases"][index]
        for path in (oracle_output / "families.json", REFERENCE)
    )
    assert now["weights_sha256"] == committed["weights_sha256"]
    for found, expected in zip(now["prompts"], committed["prompts"], strict=True):
        assert (found["prompt"], found["completion"]) == (expected["prompt"], expected["completion"])
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=2e-4)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: CASES[index].file_name)
def test_artifact_of_every_small_model_equals_transformers(
    oracle_output: Path, index: int, tmp_path: Path
) -> None:
    case, answers = CASES[index], read_references(oracle_output / "families.json")
    export(write(case, tmp_path / "source"), tmp_path / "model/1", Precision.FLOAT32)
    assert_equals_reference(load_logits(tmp_path / "model/1"), answers[case.name])
    runner = load_runner(tmp_path / "model/1", lanes=1)
    try:
        assert_equals_reference(runner.logits, answers[case.name])
    finally:
        runner.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Realistic:
    """A model of realistic size: its artifact, and what transformers says of it."""

    artifact: Path
    answers: Any


@pytest.fixture(scope="module", params=REALISTIC, ids=lambda case: case.file_name)
def realistic(
    request: pytest.FixtureRequest, oracle_output: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Realistic]:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("realistic")
    export(write(case, folder / "source"), folder / "model/1", Precision.FLOAT32)
    with np.load(oracle_output / f"{case.file_name}.npz") as answers:
        yield Realistic(folder / "model/1", answers)


def test_saved_model_of_realistic_size_equals_transformers(realistic: Realistic) -> None:
    assert_equals_transformers(load_logits(realistic.artifact), realistic.answers)


def test_cpu_program_of_realistic_size_equals_transformers(realistic: Realistic) -> None:
    runner = load_runner(realistic.artifact)
    try:
        assert_equals_transformers(runner.logits, realistic.answers)
    finally:
        runner.close()


def assert_equals_transformers(logits: LogitsFunction, answers: Any) -> None:
    for index in range(len(PROMPTS)):
        prompt, completion = (answers[f"{name}_{index}"].tolist() for name in ("prompt", "completion"))
        expected, largest = answers[f"logits_{index}"], float(answers[f"largest_logit_{index}"])
        found = logits([*prompt, *completion])
        difference = float(np.abs(found - expected).max())
        print(f"prompt of {len(prompt)}: {difference / largest:.1e} of the largest logit, {largest:.1f}")
        assert difference <= LARGEST_DIFFERENCE * largest
        assert found[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == completion
