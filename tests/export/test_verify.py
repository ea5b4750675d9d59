"""`verify` holds for what an export wrote, and says what is wrong with anything else."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from rich.console import Console
from tensorflow_serving.apis import prediction_log_pb2
from tests.export.conftest import Exported

from cadenza.export import artifact as artifacts
from cadenza.export.errors import ArtifactError
from cadenza.export.verify import verify

CHECKS = (
    "checksums",
    "signatures",
    "operations",
    "tokenizer.json",
    "tokenize",
    "detokenize",
    "complete",
    "logits on TensorFlow",
    "logits on the CPU program",
    "warm-up requests",
)


def run(path: Path) -> tuple[bool, dict[str, str]]:
    """Whether all holds, and the table's lines by check."""
    text = io.StringIO()
    passed = verify(path, Console(file=text, width=300))
    rows = [line.split("│")[1:4] for line in text.getvalue().splitlines() if line.startswith("│")]
    return passed, {name.strip(): f"{result.strip()}: {seen.strip()}" for name, result, seen in rows}


@pytest.fixture
def copy(tmp_path: Path, gguf_float32: Exported) -> Path:
    return Path(shutil.copytree(gguf_float32.artifact, tmp_path / "model/1"))


@pytest.mark.parametrize("fixture", ["gguf_float32", "grouped_tied_int8", "separate_scaled_float32"])
def test_a_whole_artifact_passes_every_check(request: pytest.FixtureRequest, fixture: str) -> None:
    exported: Exported = request.getfixturevalue(fixture)
    passed, rows = run(exported.artifact)
    assert passed, rows
    assert tuple(rows) == CHECKS


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        (lambda path: (path / "saved_model.pb").write_bytes(b"x"), "saved_model.pb is corrupted"),
        (lambda path: (path / "assets.extra/cpu/head.tflite").unlink(), "cpu/head.tflite is missing"),
        (lambda path: (path / "more.txt").write_text("x"), "more.txt is not listed"),
        (lambda path: (path / "assets.extra/SHA256SUMS").unlink(), "SHA256SUMS cannot be read"),
    ],
)
def test_damaged_files_are_named_and_nothing_else_is_tried(
    copy: Path, damage: Callable[[Path], object], seen: str
) -> None:
    damage(copy)
    passed, rows = run(copy)
    assert not passed
    assert tuple(rows) == ("checksums",)
    assert rows["checksums"].startswith("FAILED")
    assert seen in rows["checksums"]


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("tokenize", lambda golden: golden["tokenizer"][0]["token_ids"].append(5)),
        ("complete", lambda golden: golden["completions"][0]["token_ids"].__setitem__(0, 399)),
        (
            "logits on TensorFlow",
            lambda golden: golden["completions"][1]["saved_model"]["best_logits"].__setitem__(3, 9.0),
        ),
        (
            "logits on the CPU program",
            lambda golden: golden["completions"][1]["cpu"]["root_mean_squares"].__setitem__(0, 1e3),
        ),
    ],
)
def test_answers_that_differ_from_the_golden_ones_fail_their_check(
    copy: Path, check: str, change: Callable[[dict[str, object]], object]
) -> None:
    path = copy / "assets.extra/golden.json"
    golden = json.loads(path.read_text())
    change(golden)
    path.write_text(json.dumps(golden))
    artifacts.write_checksums(copy)
    passed, rows = run(copy)
    assert not passed
    assert rows[check].startswith("FAILED")
    assert rows["signatures"].startswith("ok")


def test_a_cpu_program_of_other_weights_fails_its_check_alone(
    copy: Path, separate_scaled_float32: Exported
) -> None:
    shutil.copy(separate_scaled_float32.artifact / "assets.extra/cpu/head.tflite", copy / "assets.extra/cpu")
    artifacts.write_checksums(copy)
    _, rows = run(copy)
    assert [name for name, row in rows.items() if row.startswith("FAILED")] == ["logits on the CPU program"]


def test_unknown_contract_version_is_refused(copy: Path) -> None:
    path = copy / "assets.extra/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"contract_version": 99}))
    with pytest.raises(ArtifactError, match="contract_version 99; this release knows 3"):
        run(copy)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="give a version folder"):
        run(tmp_path)


def test_warm_up_requests_are_records_of_prediction_logs_for_this_model(gguf_float32: Exported) -> None:
    file = gguf_float32.artifact / "assets.extra/tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(file))
    ]
    specs = [log.predict_log.request.model_spec for log in logs]
    assert [spec.signature_name for spec in specs] == ["tokenize", "score", "complete"]
    assert {spec.name for spec in specs} == {"model"}
