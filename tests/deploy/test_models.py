"""`make models` does nothing, fast, where both exports are there and current."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from deploy.demo.models import ROOT, is_current


@pytest.mark.real_model
def test_second_run_exports_nothing_and_imports_no_tensorflow(real_int8: Path, real_float32: Path) -> None:
    artifacts = (real_int8, real_float32)
    if not all(map(is_current, artifacts)):
        pytest.fail("the exporter has changed since the exports were made: run `make models`", pytrace=False)
    before = [written_at(path) for path in artifacts]
    run = run_models("int8", "float32", interpreter_options=["-X", "importtime"])
    assert run.returncode == 0
    assert "deploy.demo.packages" in run.stderr
    assert "tensorflow" not in run.stderr
    assert [written_at(path) for path in artifacts] == before


def test_unknown_precision_is_refused_with_those_there_are() -> None:
    run = run_models("int4")
    assert run.returncode == 2
    assert "float32, int8" in run.stderr.replace("'", "")


def run_models(*precisions: str, interpreter_options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *interpreter_options, "-m", "deploy.demo.models", *precisions]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def written_at(artifact: Path) -> int:
    return (artifact / "saved_model.pb").stat().st_mtime_ns
