"""Artifacts are served only when every file is whole."""

import json
import shutil
from pathlib import Path

import pytest
from tests.server.artifacts import MANIFEST, write_artifact, write_sums

from cadenza.server.errors import ArtifactError
from cadenza.server.repository import ModelVersion, load_artifact


def _load(path: Path) -> None:
    load_artifact(ModelVersion("tiny", 7, path))


def test_whole_artifact_is_read(artifact: Path) -> None:
    read = load_artifact(ModelVersion("tiny", 7, artifact))
    assert read.manifest.decoder.max_context == 128
    assert read.chat_template is not None
    assert read.tokenizer_path.is_file()
    assert read.cpu_dir.is_dir()


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
