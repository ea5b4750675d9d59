"""What is made of results: medians, differences to the reference, a picture."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from tests.bench.rivals.contestants import CONTESTANTS, Contestant, Division
from tests.bench.rivals.environments import ENVIRONMENTS
from tests.bench.rivals.models import FORMATS
from tests.bench.rivals.quality import Exam
from tests.bench.rivals.report import Report
from tests.bench.rivals.results import Plan, Result

EXAM = Exam(texts={"a": [1, 2, 3], "b": [4, 5]}, chats=[[7], [8]], end_token=2)
PLAN = Plan(rounds=3, concurrency=(1, 8, 32), new_tokens=64, context=512, texts=2, questions=2)


def contestant(name: str, division: Division) -> Contestant:
    return next(one for one in CONTESTANTS if (one.name, one.division) == (name, division))


@pytest.fixture
def results() -> list[Result]:
    int8 = Result(contestant("Cadenza int8", Division.REDUCED))
    int8.throughput = {1: [100.0, 120.0, 90.0], 8: [500.0], 32: [900.0]}
    int8.ttft = [0.2, 0.4, 0.3]
    int8.nll, int8.answers = {"a": 1.5, "b": 2.25}, [[9, 2, 5], [9, 9, 9]]
    reference = Result(contestant("Cadenza float32", Division.FLOAT32))
    reference.nll, reference.answers = {"a": 1.25, "b": 2.0}, [[9, 2, 6], [9, 9, 8]]
    failed = Result(
        contestant("CTranslate2 int8", Division.REDUCED), failure="could not be installed: no wheel"
    )
    return [int8, reference, failed]


def test_quality_is_held_against_the_float32_reference(results: list[Result]) -> None:
    report = Report({}, PLAN, EXAM, results)
    quality = report.quality(results[0])
    assert quality.nll_cost == pytest.approx(0.25)
    assert quality.same_answers == 1


def test_the_table_has_medians_and_a_row_for_what_failed(results: list[Result]) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(Report({}, PLAN, EXAM, results).table(Division.REDUCED))
    rows = {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if "│" in line}
    assert [cell.strip() for cell in rows["Cadenza int8"].split("│")[3:7]] == ["100", "500", "900", "300"]
    assert [cell.strip() for cell in rows["CTranslate2 int8"].split("│")[3:7]] == ["-"] * 4


def test_what_failed_is_told_with_its_reason(results: list[Result]) -> None:
    report = Report({}, PLAN, EXAM, results)
    assert report.failures() == ["CTranslate2 int8: could not be installed: no wheel"]


def test_json_has_every_round_and_the_settings(results: list[Result]) -> None:
    content = json.loads(Report({"seed": 7}, PLAN, EXAM, results).json())
    assert content["seed"] == 7
    assert content["reference"] == "Cadenza float32"
    entry = content["results"][0]
    assert entry["throughput"]["1"] == [100.0, 120.0, 90.0]
    assert entry["contestant"]["division"] == "int8 and bfloat16"


def test_pictures_have_a_bar_for_each_value(results: list[Result], tmp_path: Path) -> None:
    Report({}, PLAN, EXAM, results).write_plots(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rivals-reduced.svg"]
    drawing = ET.fromstring((tmp_path / "rivals-reduced.svg").read_text(encoding="utf-8"))
    texts = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Cadenza int8", "100", "500", "900"} <= set(texts)


def test_every_contestant_has_an_environment_a_model_and_a_name_of_its_own() -> None:
    names = [(one.name, one.division) for one in CONTESTANTS]
    assert len(set(names)) == len(names)
    for one in CONTESTANTS:
        assert one.ours or (one.engine in ENVIRONMENTS and one.model in FORMATS), one


def test_ours_is_held_against_the_best_rival_of_its_division(results: list[Result]) -> None:
    faster, slower = (
        Result(contestant(f"OpenVINO GenAI {kind}", Division.REDUCED)) for kind in ("int8", "bf16")
    )
    faster.throughput, faster.ttft = {1: [80.0], 8: [200.0]}, [0.6]
    slower.throughput, slower.ttft = {1: [50.0], 8: [250.0]}, [0.45]
    found = Report({}, PLAN, EXAM, [*results, faster, slower]).comparisons()
    assert [(one.point, one.rival) for one in found] == [
        ("1 concurrent", "OpenVINO GenAI int8"),
        ("8 concurrent", "OpenVINO GenAI bf16"),
        ("TTFT", "OpenVINO GenAI bf16"),
    ]
    assert [one.quotient for one in found] == pytest.approx([100 / 80, 500 / 250, 0.45 / 0.3])
