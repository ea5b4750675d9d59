"""`python -m tests.bench.dashboard`: a real Prometheus watches the real model, and every panel has data.

The load is an open loop of the chat shape whose rate rises from LOW to HIGH requests a second; beside it
every few seconds a request that is refused, one that is cancelled, and one over HTTP. TLS is on. At the end
every query of the dashboard is asked over the whole run, the alerts that fire are listed, and promtool
reads /metrics. What an autoscaler follows is kept for `python -m deploy.autoscaling`.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.demo.models import ARTIFACTS, CACHE, ROOT
from deploy.demo.serving import ServerProcess, serve
from deploy.monitoring.dashboard import queries, read_dashboard
from rich.console import Console
from rich.table import Table
from tests.bench.machine import processor
from tests.client.certificates import Authority
from tests.monitoring.prometheus import Prometheus, metrics_complaints, prometheus

from cadenza.client import CadenzaError, Client, Tls

SCRAPE_SECONDS = 5.0
STEP_SECONDS = 15.0
MODEL = "smollm2-135m"
VARIABLES = dict.fromkeys(("namespace", "job", "instance", "model"), ".*") | {"__rate_interval": "30s"}
RESULTS = ROOT / "build" / "bench" / "dashboard"
FOLLOWED = '{__name__=~"cadenza_num_requests_waiting|cadenza_kv_cache_usage_ratio"}'
"""What the chart's autoscaler follows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a query has no data or a tool complains."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dashboard", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the load")
    parser.add_argument("--rate", default="0.5:4", help="requests a second, LOW:HIGH")
    parser.add_argument(
        "--calm-seconds", type=float, default=30.0, help="how long it is watched after the load"
    )
    options = parser.parse_args(arguments)
    RESULTS.mkdir(parents=True, exist_ok=True)
    console = Console()
    with (
        tempfile.TemporaryDirectory() as scratch,
        watched_server(Path(scratch)) as (server, ca_file, watcher),
    ):
        begin = time.time()
        with mischief(server, ca_file):
            load(server, ca_file, options.rate, options.seconds)
        time.sleep(options.calm_seconds)
        end = time.time()
        complaints = [*filter(None, [metrics_complaints(page(server))]), *broken_rules(watcher)]
        empty = report(console, watcher, begin, end)
        recording = {
            "status": "success",
            "data": watcher.get("query_range", query=FOLLOWED, start=begin, end=end, step=STEP_SECONDS),
        }
        (RESULTS / "recording.json").write_text(json.dumps(recording), encoding="utf-8")
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M int8, {options.rate} requests/s over {options.seconds:.0f} s, "
        f"scraped every {SCRAPE_SECONDS:.0f} s"
    )
    for complaint in complaints:
        console.print(complaint, style="red", markup=False)
    console.print(f"recording: {(RESULTS / 'recording.json').relative_to(ROOT)}")
    return 1 if complaints or empty else 0


@contextlib.contextmanager
def watched_server(folder: Path) -> Iterator[tuple[ServerProcess, Path, Prometheus]]:
    """The server behind TLS, the file of its authority, and a Prometheus that scrapes it."""
    authority = Authority(folder / "authority")
    pair = authority.issue("localhost")
    flags = ("--tls-certificate", str(pair.cert), "--tls-key", str(pair.key), "--openai", "on")
    with (
        serve({MODEL: ARTIFACTS["int8"]}, "--cache-dir", str(CACHE / "server"), *flags) as server,
        prometheus(folder, server.http_port, SCRAPE_SECONDS) as watcher,
    ):
        yield server, authority.ca.cert, watcher


def load(server: ServerProcess, ca_file: Path, rate: str, seconds: float) -> None:
    """Runs the load tester; its report goes beside the recording."""
    flags = [
        "--rate",
        rate,
        "--shape",
        "chat",
        "--duration",
        f"{seconds:.0f}s",
        "--warmup",
        "0s",
        "--timeout",
        "120",
    ]
    files = ["--json", str(RESULTS / "load.json"), "--html", str(RESULTS / "load.html")]
    metrics = ["--metrics", f"http://localhost:{server.http_port}/metrics"]
    environment = {**os.environ, "CADENZA_TARGET": server.target, "CADENZA_TLS_CA_FILE": str(ca_file)}
    command = [str(Path(sys.executable).with_name("cadenza")), "load", *flags, *files, *metrics]
    subprocess.run(command, env=environment, check=False)


@contextlib.contextmanager
def mischief(server: ServerProcess, ca_file: Path) -> Iterator[None]:
    """Meanwhile, every two seconds, requests that do not end as they should."""
    over = threading.Event()

    def work() -> None:
        with Client(server.target, tls=Tls(ca_file=str(ca_file)), max_retries=0) as client:
            while not over.wait(2.0):
                with contextlib.suppress(CadenzaError):
                    client.complete("x", temperature=-1)
                with (
                    contextlib.suppress(CadenzaError),
                    client.stream("Once upon a time", max_tokens=200) as stream,
                ):
                    next(iter(stream))
                with contextlib.suppress(OSError):
                    complete_over_http(server.http_port)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def complete_over_http(port: int) -> None:
    """One short completion of OpenAI's API. Raises OSError."""
    body = json.dumps({"model": MODEL, "prompt": "Once", "max_tokens": 4}).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"http://localhost:{port}/v1/completions", body, headers), timeout=60
    ) as response:
        response.read()


def page(server: ServerProcess) -> str:
    """The server's metrics."""
    with urllib.request.urlopen(f"http://localhost:{server.http_port}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def broken_rules(watcher: Prometheus) -> list[str]:
    """Rules that Prometheus could not evaluate, with why."""
    return [f"{rule['name']}: {rule['lastError']}" for rule in watcher.rules() if rule.get("lastError")]


def report(console: Console, watcher: Prometheus, begin: float, end: float) -> int:
    """Prints what every query gave; returns how many gave no number at all."""
    table = Table(title="the dashboard's queries over the run")
    for column in ("panel", "series", "values", "least", "most"):
        table.add_column(column, justify="left" if column == "panel" else "right")
    empty = 0
    for query in queries(read_dashboard()):
        series = watcher.query_range(query.filled_in(VARIABLES), begin, end, STEP_SECONDS)
        values = [value for one in series for value in numbers(one)]
        empty += not values
        limits = (f"{min(values):.4g}", f"{max(values):.4g}") if values else ("no data", "")
        table.add_row(query.panel, str(len(series)), str(len(values)), *limits)
    console.print(table)
    firing = [rule["name"] for rule in watcher.rules() if rule.get("state") == "firing"]
    console.print(f"alerts that fire at the end: {', '.join(firing) or 'none'}")
    return empty


def numbers(series: Mapping[str, Any]) -> list[float]:
    """The finite values of a series; before the first request of a kind a ratio is none."""
    values = (float(value) for _, value in series["values"])
    return [value for value in values if math.isfinite(value)]


if __name__ == "__main__":
    sys.exit(main())
