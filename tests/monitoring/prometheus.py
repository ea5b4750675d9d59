"""A real Prometheus that scrapes one server, for tests and for `python -m tests.bench.dashboard`."""

import contextlib
import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml
from deploy.monitoring.dashboard import RULES
from deploy.setup.prometheus import ensure_prometheus

WAIT_SECONDS = 30
JOB = "cadenza"
_LISTENING = re.compile(r'msg="Listening on" address=\S*:(\d+)')
_READY = "Server is ready to receive web requests"


class Prometheus:
    """Answers queries of a running Prometheus on a local port."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now."""
        return self._result("query", query=expression)

    def query_range(self, expression: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series of an expression at every `step` seconds from `begin` to `end`, Unix time."""
        return self._result("query_range", query=expression, start=begin, end=end, step=step)

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its state, as Prometheus last evaluated it."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def get(self, path: str, **parameters: object) -> dict[str, Any]:
        """The data that a page of the API answers with."""
        address = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=WAIT_SECONDS) as response:
            data: dict[str, Any] = json.load(response)["data"]
        return data

    def _result(self, path: str, **parameters: object) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get(path, **parameters)["result"]
        return result


@contextlib.contextmanager
def prometheus(folder: Path, http_port: int, scrape_seconds: float) -> Iterator[Prometheus]:
    """Starts one that scrapes a server's HTTP port and evaluates the project's rules; ends it with the block.

    `folder` is where it keeps its data. Raises FetchError where Prometheus cannot be had.
    """
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(_configuration(http_port, scrape_seconds)))
    process = subprocess.Popen(
        [
            ensure_prometheus() / "prometheus", f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:0",
        ],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = process.stderr
    assert log is not None
    # Its log is read on, so that it never waits for a reader.
    reader = threading.Thread(target=log.read)
    try:
        port = _port(log)
        reader.start()
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)
        if reader.ident is not None:
            reader.join()
        log.close()


def metrics_complaints(page: str) -> str:
    """What `promtool check metrics` says of a page; nothing where it is good."""
    command = [str(ensure_prometheus() / "promtool"), "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _configuration(http_port: int, scrape_seconds: float) -> dict[str, Any]:
    interval = f"{round(1000 * scrape_seconds)}ms"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [f"127.0.0.1:{http_port}"]}]}],
    }


def _port(log: IO[str]) -> int:
    """The port that it says it listens on, once it says that it is ready."""
    said, port = [], 0
    for line in log:
        said.append(line)
        if found := _LISTENING.search(line):
            port = int(found[1])
        if port and _READY in line:
            return port
    raise AssertionError("Prometheus ended before it was ready:\n" + "".join(said))
