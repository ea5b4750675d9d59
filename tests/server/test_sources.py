"""What is wanted of a folder that changes, and of flags."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.server.artifacts import write_artifact
from tests.server.live import settings

from cadenza.server.errors import ArtifactError
from cadenza.server.repository import ModelVersion
from cadenza.server.sources import ModelsFolder, NamedVersions, choose_source


def _wanted(folder: ModelsFolder, *, settled: bool = False, **served: set[int]) -> dict[str, list[int]]:
    wanted = folder.wanted(served, settled=settled)
    return {name: [version.version for version in versions] for name, versions in wanted.items()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("tiny/1", "tiny/2", "other/10", "other/9"):
        write_artifact(tmp_path / name)
    return tmp_path


def test_highest_whole_version_of_every_model_is_wanted(models: Path) -> None:
    for name in ("tiny/latest", "tiny/007", "empty", ".hidden/1", "no model/1"):
        (models / name).mkdir(parents=True)
    (models / "file").write_text("")
    with capture_logs() as log:
        folder = ModelsFolder(models, {})
        expected = {"empty": [], "other": [10], "tiny": [2]}
        assert [_wanted(folder), _wanted(folder)] == [expected, expected]
    (complaint,) = log
    assert "no model is no model" in complaint["problem"]


def test_pinned_versions_are_wanted_and_missing_ones_are_told_once(models: Path) -> None:
    with capture_logs() as log:
        folder = ModelsFolder(models, {"tiny": (1, 2, 3), "gone": (1,)})
        assert [_wanted(folder), _wanted(folder)] == [{"other": [10], "tiny": [2, 1]}] * 2
    problems = " ".join(line["problem"] for line in log)
    assert len(log) == 2
    assert "--pin names version 3 of tiny" in problems
    assert "--pin names gone" in problems


def test_version_that_is_being_copied_is_waited_for_and_told_once(models: Path) -> None:
    sums = models / "tiny" / "2" / "assets.extra" / "SHA256SUMS"
    whole = sums.read_bytes()
    sums.unlink()
    folder = ModelsFolder(models, {})
    with capture_logs() as log:
        assert _wanted(folder)["tiny"] == [1]
        sums.write_bytes(whole)
        graph = models / "tiny" / "2" / "saved_model.pb"
        graph.rename(models / "elsewhere")
        assert _wanted(folder)["tiny"] == [1]
        (models / "elsewhere").rename(graph)
    assert [(line["event"], line["version"], line["missing"]) for line in log] == [
        ("version_incomplete", 2, "assets.extra/SHA256SUMS")
    ]
    assert _wanted(folder)["tiny"] == [2]


def test_version_whose_files_still_change_is_waited_for_where_that_is_asked(models: Path) -> None:
    folder = ModelsFolder(models, {})
    graph = models / "tiny" / "2" / "saved_model.pb"
    assert _wanted(folder, settled=True, tiny={1})["tiny"] == [1]
    graph.write_bytes(b"more of the graph")
    assert _wanted(folder, settled=True, tiny={1})["tiny"] == [1]
    assert _wanted(folder, settled=True, tiny={1})["tiny"] == [2]


def test_refused_version_is_wanted_again_when_its_files_change_or_when_asked(models: Path) -> None:
    folder = ModelsFolder(models, {})
    (refused,) = folder.wanted({}, settled=False)["tiny"]
    folder.refuse(refused)
    assert [_wanted(folder)["tiny"], _wanted(folder)["tiny"]] == [[1], [1]]
    (refused.path / "saved_model.pb").write_bytes(b"mended")
    assert _wanted(folder)["tiny"] == [2]
    folder.refuse(refused)
    assert _wanted(folder)["tiny"] == [1]
    folder.forgive()
    assert _wanted(folder)["tiny"] == [2]


def test_version_that_is_served_is_wanted_whatever_its_files_say(models: Path) -> None:
    (models / "tiny" / "2" / "assets.extra" / "SHA256SUMS").unlink()
    folder = ModelsFolder(models, {})
    assert _wanted(folder, tiny={2})["tiny"] == [2]


def test_folder_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nosuch cannot be read \(No such file"):
        ModelsFolder(tmp_path / "nosuch", {}).wanted({}, settled=False)


def test_flags_name_their_versions(models: Path) -> None:
    source = choose_source(settings(model=(f"b={models}/tiny/1", f"a={models}/tiny/2")))
    assert source.wanted({}, settled=True) == {
        "a": [ModelVersion("a", 2, models / "tiny" / "2")],
        "b": [ModelVersion("b", 1, models / "tiny" / "1")],
    }


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
        NamedVersions((flag,)).wanted({}, settled=False)


def test_two_models_cannot_share_a_name(models: Path) -> None:
    with pytest.raises(ArtifactError, match="tiny twice"):
        NamedVersions((f"tiny={models}/tiny/1", f"tiny={models}/tiny/2")).wanted({}, settled=False)
