"""Reports: JSON and CSV that say what was measured, and a page that needs nothing but itself."""

import asyncio
import csv
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console
from tests.load.measured import OBJECTIVES, run

from cadenza.load._counts import LiveCounts
from cadenza.load._display import TerminalDisplay
from cadenza.load._files import read_trace
from cadenza.load._formulas import FORMULAS
from cadenza.load._html import page, write_html, write_plots
from cadenza.load._plot import Limit, Line, Plot, svg
from cadenza.load._report import COLUMNS, Report, as_json, environment, write_csv, write_json
from cadenza.load._sweep import Criterion, Sweep
from cadenza.load._table import print_run, print_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def report(*, swept: bool = False) -> Report:
    runs = (run(rate=1.0), run(0.8, rate=2.0, invalid=["requests were sent <late>"]))
    sweep = Sweep(Criterion(OBJECTIVES), runs, 1.0) if swept else None
    return Report({"target": "localhost:8500"}, environment(), runs if swept else runs[1:], sweep)


def test_json_has_every_figure_and_formula(tmp_path: Path) -> None:
    write_json(report(swept=True), tmp_path / "report.json")
    document = json.loads((tmp_path / "report.json").read_text())
    assert document == json.loads(
        json.dumps(as_json(report(swept=True)) | {"environment": document["environment"]})
    )
    assert document["formulas"] == FORMULAS
    assert document["settings"] == {"target": "localhost:8500"}
    first, second = document["runs"]
    assert first["summary"]["ttft"]["p99"] == pytest.approx(0.2)
    assert first["summary"]["goodput"]["requests"] == 20
    assert first["server"]["samples"][2]["waiting"] == 4.0
    assert first["agreement"][0]["name"] == "TTFT mean"
    assert (first["valid"], second["valid"]) == (True, False)
    assert second["invalid"] == ["requests were sent <late>"]
    assert document["sweep"] == {
        "criterion": "TTFT <= 500 ms, TPOT <= 50 ms at p99, at most 1 % failed",
        "highest_rate": 1.0,
        "met": {"1": True, "2": False},
    }


def test_csv_has_a_line_per_request_and_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    write_csv([run(failed=1)], path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 20
    assert (rows[0]["error"], rows[0]["ttft"], rows[0]["tpot"]) == ("QUEUE_FULL", "", "")
    assert (rows[1]["scheduled"], rows[1]["ttft"], rows[1]["tpot"], rows[1]["reply_tokens"]) == (
        "0.100000", "0.200000", "0.020000", "3",
    )  # fmt: skip
    trace = read_trace(str(path), speed=2.0)
    assert list(trace.arrivals.times()) == pytest.approx([index / 20 for index in range(20)])
    assert trace.lengths is not None
    assert trace.lengths.pairs[:2] == ((1, 1), (7, 3))


@pytest.mark.parametrize("swept", [False, True])
def test_the_page_is_self_contained_and_shows_what_was_measured(swept: bool) -> None:
    html = page(report(swept=swept))
    assert not re.search(r"<script|<link|<img|src=|url\(|@import", html)
    assert set(re.findall(r'https?://[^"\s<]+', html)) == {"http://www.w3.org/2000/svg"}
    assert "Invalid: requests were sent &lt;late&gt;" in html
    assert all(name in html for name in FORMULAS)
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(plots) == (15 if swept else 6)
    for plot in plots:
        assert ET.fromstring(plot).findall("{*}polyline")
    assert ("Highest rate that meets" in html) is swept


@pytest.mark.parametrize("swept", [False, True])
def test_plots_are_written_as_files(tmp_path: Path, swept: bool) -> None:
    write_plots(report(swept=swept), tmp_path / "plots")
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert len(names) == (3 if swept else 6)
    assert ("time-to-first-token-against-rate.svg" in names) is swept
    assert all(ET.parse(path).getroot().tag.endswith("svg") for path in (tmp_path / "plots").iterdir())


def test_a_plot_draws_its_points_where_they_belong() -> None:
    plot = Plot("T", "x", "y", [Line("a", [(0, 0), (10, 100)])], [Limit("bound", 50)])
    root = ET.fromstring(svg(plot))
    (line,) = root.findall("{*}polyline")
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    dashed = next(one for one in root.findall("{*}line") if "stroke-dasharray" in one.attrib)
    assert x0 < x1
    assert y1 < y0
    assert float(dashed.attrib["y1"]) == pytest.approx((y0 + y1) / 2, abs=0.1)
    labels = [text.text for text in root.findall("{*}text")]
    assert {"0", "2", "10", "20", "100", "T", "x", "y", "a", "bound"} <= set(labels)


def test_a_logarithmic_axis_spaces_factors_evenly() -> None:
    plot = Plot("T", "x", "y", [Line("a", [(1, 1), (2, 10), (3, 100), (4, 0)])], log_y=True)
    (line,) = ET.fromstring(svg(plot)).findall("{*}polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert len(heights) == 3  # nothing for 0
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


@pytest.mark.parametrize("points", [[], [(0.0, 0.0)], [(1.0, 5.0)]])
@pytest.mark.parametrize("log", [False, True])
def test_a_plot_of_little_is_still_a_plot(points: list[tuple[float, float]], log: bool) -> None:
    ET.fromstring(svg(Plot("T", "x", "y", [Line("a <b>", points)], log_x=log, log_y=log)))


def test_the_terminal_shows_runs_and_sweeps() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    swept = report(swept=True)
    print_run(swept.runs[1], console)
    assert swept.sweep is not None
    print_sweep(swept.sweep, console)
    printed = screen.getvalue()
    assert "INVALID: requests were sent <late>" in printed
    assert (
        "generator: 1 process, 2.0 % of a core, 2.00 ms of it per request, event loop late by 2.0 ms"
        in printed
    )
    assert re.search(r"TTFT mean\s+800.00\s+799.00\s+\+0.13 %", printed)
    assert (
        "highest rate that meets TTFT <= 500 ms, TPOT <= 50 ms at p99, at most 1 % failed: 1 req" in printed
    )


async def test_a_running_load_is_shown_on_a_terminal() -> None:
    counts = LiveCounts()
    counts.slots[0][:] = [5, 3, 1, 40]
    screen = io.StringIO()
    display = TerminalDisplay(Console(file=screen, force_terminal=True, width=150))
    async with display.showing("4 requests/s", 60.0, counts), asyncio.timeout(20):
        while "sent" not in screen.getvalue():  # noqa: ASYNC110 - the screen has no event
            await asyncio.sleep(0)
    assert "4 requests/s" in screen.getvalue()
    assert "5 sent, 1 running, 3 done, 1 failed, 80 tokens/s" in screen.getvalue()


async def test_a_running_load_is_not_shown_in_a_pipe() -> None:
    screen = io.StringIO()
    async with TerminalDisplay(Console(file=screen)).showing("4 requests/s", 60.0, LiveCounts()):
        await asyncio.sleep(0)
    assert screen.getvalue() == ""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    write_html(report(swept=True), tmp_path / "report.html")
    assert CHROMIUM is not None
    dump = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/report.html"],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert dump.count("</svg>") == 15
    assert "Highest rate that meets" in dump
