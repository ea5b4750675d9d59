"""Artifacts are found by their layout and served only when every file is whole."""

import json
import shutil
from pathlib import Path

import pytest
from tests.server.artifacts import MANIFEST, write_artifact, write_sums
from tests.server.live import settings

from cadenza.server.errors import ArtifactError
from cadenza.server.repository import ModelVersion, find_versions, load_artifact


def _load(path: Path) -> None:
    load_artifact(ModelVersion("tiny", 7, path))


def test_whole_artifact_is_read(artifact: Path) -> None:
    read = load_artifact(ModelVersion("tiny", 7, artifact))
    assert read.manifest.decoder.max_context == 128
    assert read.chat_template is not None
    assert read.tokenizer_path.is_file()
    assert read.cpu_dir.is_dir()


def test_highest_version_of_every_name_is_found(artifact: Path) -> None:
    models = artifact.parent.parent
    for version in ("10", "9", "latest"):
        (artifact.parent / version).mkdir()
    (models / "other" / "1").mkdir(parents=True)
    (models / "empty").mkdir()
    (models / "file").write_text("")
    found = find_versions(settings(models=models))
    assert [(one.name, one.version) for one in found] == [("other", 1), ("tiny", 10)]


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "assets.extra/tokenizer.json", "assets.extra/cpu/s.tflite"]
)
def test_changed_missing_and_unlisted_files_are_named(artifact: Path, name: str) -> None:
    whole = (artifact / name).read_bytes()
    (artifact / name).write_bytes(whole[:-1] + b"\x00")
    with pytest.raises(ArtifactError, match=f"{name} is corrupted"):
        _load(artifact)
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        _load(artifact)
    (artifact / name).write_bytes(whole)
    (artifact / (name + ".new")).write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"{name}.new is not listed"):
        _load(artifact)


def test_file_that_the_manifest_names_must_be_there_though_the_sums_agree(artifact: Path) -> None:
    (artifact / "assets.extra" / "cpu" / "h.tflite").unlink()
    write_sums(artifact)
    with pytest.raises(ArtifactError, match=r"cpu/h\.tflite is missing"):
        _load(artifact)


@pytest.mark.parametrize(
    "text", ["no sums\n", f"{'0' * 64}  ../../etc/passwd\n", f"{'0' * 64}  /etc/passwd\n"]
)
def test_checksum_list_that_is_no_list_is_refused(artifact: Path, text: str) -> None:
    (artifact / "assets.extra" / "SHA256SUMS").write_text(text)
    with pytest.raises(ArtifactError, match="SHA256SUMS is corrupted: line 1"):
        _load(artifact)


def test_folder_without_checksums_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="SHA256SUMS cannot be read"):
        _load(tmp_path)


def test_manifest_of_another_contract_or_shape_is_refused(artifact: Path) -> None:
    shutil.rmtree(artifact)
    write_artifact(artifact, {**MANIFEST, "contract_version": 1})
    with pytest.raises(ArtifactError, match="contract_version 1"):
        _load(artifact)
    (artifact / "assets.extra" / "manifest.json").write_text(json.dumps({**MANIFEST, "surprise": 1}))
    write_sums(artifact)
    with pytest.raises(ArtifactError, match="no manifest that this server knows"):
        _load(artifact)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("tiny", "is not NAME=PATH"),
        ("=models/tiny/1", "no model name"),
        ("a/b=models/tiny/1", "no model name"),
        ("tiny=models/tiny/latest", "must end in a version number"),
    ],
)
def test_model_flag_that_names_no_version_is_explained(flag: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        find_versions(settings(model=(flag,)))


def test_two_models_cannot_share_a_name(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="tiny twice"):
        find_versions(settings(model=(f"tiny={artifact}", f"tiny={artifact}")))


def test_folder_without_models_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no NAME/VERSION"):
        find_versions(settings(models=tmp_path))
    with pytest.raises(ArtifactError, match="is not a folder"):
        find_versions(settings(models=tmp_path / "nosuch"))
