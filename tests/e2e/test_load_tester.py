"""`cadenza load` on the real server: its counts are the server's."""

import json
from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess

from cadenza.client.cli import main

pytestmark = pytest.mark.real_model


def test_the_load_testers_counts_are_the_servers(server: ServerProcess, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    where = ("--target", server.target, "--metrics", f"http://localhost:{server.http_port}/metrics")
    flags = ("--concurrency", "4", "--requests", "12", "--prompt-tokens", "20", "--reply-tokens", "8")
    assert main(["load", *where, *flags, "--max-lag", "60s", "--json", str(report)]) == 0
    (run,) = json.loads(report.read_text())["runs"]
    summary = run["summary"]
    assert (summary["requests"], summary["errors"], summary["tokens"]) == (12, {}, 12 * 8)
    assert (summary["prompt_tokens"], summary["cached_prompt_tokens"]) == (12 * 20, 0)
    assert summary["queue"]["count"] == summary["ttft"]["count"] == 12
    assert summary["itl"]["count"] == 12 * 7
    assert run["server"]["means"]["requests"] == 12
    assert {figure["name"] for figure in run["agreement"]} == {"TTFT mean", "TPOT mean", "latency mean"}
    for figure in run["agreement"]:
        assert figure["ours"] > 0 < figure["theirs"]
