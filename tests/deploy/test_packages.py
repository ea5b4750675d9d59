"""Pinned files come whole or not at all, and once. The registry is a folder of wheels; pip is real."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from deploy.demo.packages import FetchError, PinnedFile, fetch

CONTENT = b"weights"
PINNED = PinnedFile("demo-weights==1.0", "demo_weights/model.bin", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only registry there is, with one package in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "demo_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo_weights/model.bin", CONTENT)
        info = "demo_weights-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_file_is_fetched_once(wheels: Path, tmp_path: Path) -> None:
    path = fetch(PINNED, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    next(wheels.iterdir()).unlink()
    assert fetch(PINNED, tmp_path / "cache") == path


def test_other_content_than_pinned_is_refused_and_not_kept(wheels: Path, tmp_path: Path) -> None:
    other = PinnedFile(PINNED.package, PINNED.member, "0" * 64)
    with pytest.raises(FetchError, match=r"but 0{64} is pinned"):
        fetch(other, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_package_without_the_file_is_named(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"demo_weights-1\.0-py3-none-any\.whl has no file elsewhere"):
        fetch(PinnedFile(PINNED.package, "elsewhere", PINNED.sha256), tmp_path / "cache")


def test_package_that_cannot_be_downloaded_says_what_was_tried(
    wheels: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FetchError, match=r"Tried: .*pip download .*absent==1\.0"):
        fetch(PinnedFile("absent==1.0", "a", "0" * 64), tmp_path / "cache")
    assert "No matching distribution found for absent==1.0" in capfd.readouterr().err
