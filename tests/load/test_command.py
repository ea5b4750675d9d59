"""`cadenza load` as people run it: what it prints, writes and exits with."""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.client.scripted import ScriptedServer, piece

from cadenza.client.cli import main
from cadenza.client.cli._load import add_load_flags
from cadenza.v1 import completion_pb2 as pb

PAGE = """\
# HELP cadenza_num_requests_running sequences
cadenza_num_requests_running{model="a"} 2.0
cadenza_num_requests_running{model="b"} 1.0
cadenza_num_requests_waiting{model="a"} 4.0
cadenza_engine_batch_sequences{model="a"} 3.0
cadenza_engine_batch_tokens{model="a"} 5.0
cadenza_kv_cache_usage_ratio{model="a"} 0.25
cadenza_time_to_first_token_seconds_sum{model="a"} %(sum)s
cadenza_time_to_first_token_seconds_count{model="a"} %(count)s
cadenza_request_seconds_sum{model="a"} %(sum)s
cadenza_request_seconds_count{model="a"} %(count)s
"""


class Metrics(BaseHTTPRequestHandler):
    """Every page counts one more request, which took half a second."""

    reads = 0

    def do_GET(self) -> None:
        type(self).reads += 1
        page = PAGE % {"sum": 0.5 * self.reads, "count": self.reads}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def metrics() -> Iterator[str]:
    with HTTPServer(("localhost", 0), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://localhost:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    scripted.answer = (piece("a", 1), piece("b", 2, 3, end=pb.FINISH_REASON_LENGTH))
    scripted.start()
    scripted.set_serving(serving=True)
    yield scripted
    scripted.stop()


def load(server: ScriptedServer, *flags: str, metrics: str = "off") -> int:
    lengths = (
        () if "--prompts" in flags or "--trace" in flags else ("--prompt-tokens", "5", "--reply-tokens", "3")
    )
    return main(
        ["load", "--target", server.target, "--metrics", metrics, "--max-lag", "60s", *lengths, *flags]
    )


def streams(server: ScriptedServer) -> list[pb.StreamCompletionRequest]:
    return [request for request in server.requests if isinstance(request, pb.StreamCompletionRequest)]


def test_a_closed_loop_is_measured_and_reported(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("r.json", "r.csv", "r.html")]
    json_file, csv_file, html_file = map(str, files)
    reports = ("--json", json_file, "--csv", csv_file, "--html", html_file)
    assert load(server, "--concurrency", "2", "--requests", "6", "--goodput", "ttft=60s", *reports) == 0
    printed = capsys.readouterr()
    assert "2 concurrent" in printed.out
    assert "TPOT: (latency - TTFT) / (tokens - 1)" in printed.out
    assert "100.0 % of the requests (TTFT <= 60000 ms)" in printed.out
    assert printed.err == ""
    assert len(streams(server)) == 6
    assert {len(request.prompt.token_ids.ids) for request in streams(server)} == {5}
    (run,) = json.loads(files[0].read_text())["runs"]
    assert (run["summary"]["requests"], run["summary"]["tokens"], run["valid"]) == (6, 18, True)
    assert len(list(csv.DictReader(files[1].read_text().splitlines()))) == 6
    assert files[2].read_text().startswith("<!doctype html>")


def test_an_open_loop_sends_what_its_arrivals_say(server: ScriptedServer, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    flags = ("--rate", "40", "--arrivals", "constant", "--duration", "510ms", "--warmup", "110ms")
    assert load(server, *flags, "--json", str(report)) == 0
    assert len(streams(server)) == 20
    (run,) = json.loads(report.read_text())["runs"]
    assert run["summary"]["requests"] == 16
    assert run["summary"]["offered_per_second"] == pytest.approx(40)


def test_the_servers_own_view_is_read(server: ScriptedServer, metrics: str, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    assert load(server, "--concurrency", "1", "--requests", "2", "--json", str(report), metrics=metrics) == 0
    (run,) = json.loads(report.read_text())["runs"]
    assert run["server"]["means"]["ttft"] == 0.5
    assert run["server"]["means"]["tpot"] is None
    assert [figure["name"] for figure in run["agreement"]] == ["TTFT mean", "latency mean"]
    sample = run["server"]["samples"][0]
    assert (sample["running"], sample["waiting"], sample["batch_tokens"]) == (3.0, 4.0, 5.0)


def test_metrics_that_are_asked_for_and_absent_are_an_error(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--concurrency", "1", "--requests", "1")
    assert load(server, *flags, metrics="http://localhost:1/metrics") == 1
    assert "cadenza: LOAD_FAILED: cannot read http://localhost:1/metrics" in capsys.readouterr().err
    assert load(server, *flags, metrics="file:///etc/passwd") == 1
    assert "is no http:// or https:// address" in capsys.readouterr().err


def test_failures_are_counted_by_reason_and_a_load_without_success_fails(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.hangs_after = 1
    assert load(server, "--concurrency", "3", "--requests", "3", "--timeout", "0.3") == 1
    assert "3 failed: DEADLINE_EXCEEDED" in capsys.readouterr().out
    assert len(streams(server)) == 3  # nothing is tried again


def test_a_generator_that_is_late_invalidates_its_run(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(server, "--rate", "50", "--duration", "200ms", "--warmup", "0", "--max-lag", "0ms") == 3
    assert "INVALID: requests were sent late" in capsys.readouterr().out


def test_a_sweep_finds_the_highest_rate(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "r.json"
    flags = ("--sweep", "20,40", "--arrivals", "constant", "--duration", "200ms", "--warmup", "0")
    assert load(server, *flags, "--goodput", "ttft=60s", "--json", str(report)) == 0
    assert "highest rate that meets TTFT <= 60000 ms at p99, at most 1 % failed: 40 requests/s" in (
        capsys.readouterr().out
    )
    assert json.loads(report.read_text())["sweep"]["met"] == {"20": True, "40": True}
    assert load(server, *flags, "--goodput", "ttft=0ms") == 1
    assert "none of these" in capsys.readouterr().out


def test_a_csv_is_replayed(server: ScriptedServer, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("scheduled,prompt_tokens,reply_tokens\n0,3,4\n0.05,6,7\n")
    assert load(server, "--trace", str(trace), "--trace-speed", "2") == 0
    sizes = [(len(one.prompt.token_ids.ids), one.parameters.max_tokens) for one in streams(server)]
    assert sorted(sizes) == [(3, 4), (6, 7)]


def test_prompts_come_from_a_file(server: ScriptedServer, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b", "max_tokens": 9}\n')
    flags = ("--concurrency", "1", "--requests", "2", "--prompts", str(prompts), "--max-tokens", "4")
    assert load(server, *flags, "--ignore-eos", "--no-cache-prompt") == 0
    first, second = streams(server)
    assert (first.prompt.text, first.parameters.max_tokens) == ("a", 4)
    assert (second.prompt.text, second.parameters.max_tokens) == ("b", 9)
    assert first.parameters.ignore_eos
    assert not first.parameters.cache_prompt


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--rate 0", "'0' is no rate"),
        ("--rate 5 --duration 5x", "'5x' is no duration"),
        ("--rate 5 --duration 1s --warmup 2s", "the warm-up is 2 s of 1 s"),
        ("--concurrency 1 --requests 5 --warmup 1s", "the warm-up is 1 s of a load without a duration"),
        ("--concurrency 1 --requests 5 --duration 9s", "both end a closed loop"),
        ("--rate 9999 --duration 1h", "at most 1,000,000 may"),
        ("--rate 5 --requests 9", "--requests ends a closed loop"),
        ("--rate 5 --arrivals gamma", "--arrivals gamma needs --burstiness"),
        ("--rate 5 --burstiness 2", "--arrivals gamma needs --burstiness"),
        ("--rate 5 --goodput speed=1s", "are no objectives"),
        ("--sweep 1:9", "--sweep looks for the highest rate that meets --goodput"),
        ("--concurrency 0", "concurrency is 0; it must be at least 1"),
        ("--concurrency 1 --processes 0", "processes is 0; give 1 to 64"),
        ("--concurrency 1 --prompt-tokens x", "'x' is no length"),
        ("--concurrency 1 --prompts nowhere.txt", "cannot read nowhere.txt"),
        ("--sweep 9:1 --goodput ttft=1s", "'9:1' is no range to search"),
        ("--sweep 1:2,3 --goodput ttft=1s", "is no r"),
        ("--rate 5 --max-in-flight 0", "max-in-flight is 0; it must be at least 1"),
        ("--rate 5 --html nowhere/r.html", "nowhere/r.html cannot be written"),
        ("--trace nowhere.csv --trace-speed 0", "the trace's speed is 0"),
        ("--trace nowhere.csv", "cannot read nowhere.csv"),
        ("--concurrency 1 --harness mlperf", "give --rate R"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(
    server: ScriptedServer, flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", "--target", server.target, "--metrics", "off", *flags.split()]) == 2
    assert message in capsys.readouterr().err
    assert streams(server) == []


def test_a_load_has_one_pace(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        load(server)
    assert "one of the arguments --rate --concurrency --trace --sweep is required" in capsys.readouterr().err


def test_an_absent_server_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "--target", "localhost:1", "--max-retries", "0", "--concurrency", "1"]) == 1
    assert "cadenza: CONNECTION_FAILED: no answer from localhost:1" in capsys.readouterr().err


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_ends_the_load_and_its_processes(server: ScriptedServer, processes: int) -> None:
    server.hangs_after = 0
    flags = ("--metrics", "off", "--concurrency", "2", "--prompt-tokens", "5", "--processes", str(processes))
    command = [sys.executable, "-m", "cadenza.client.cli", "load", "--target", server.target, *flags]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    assert server.hanging.wait(60)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    assert running.communicate(timeout=60)[1] == ""  # at its end no process holds stderr any more
    assert running.returncode == 130
    assert server.cancelled.wait(60)


def test_the_page_about_it_names_every_flag() -> None:
    parser = argparse.ArgumentParser()
    add_load_flags(parser)
    flags = [
        flag for action in parser._actions for flag in action.option_strings if flag not in ("-h", "--help")
    ]
    page = (Path(__file__).parents[2] / "docs" / "load.md").read_text()
    assert [flag for flag in flags if f"{flag} " not in page and f"{flag}`" not in page] == []
