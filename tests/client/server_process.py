"""Real server processes with scripted runners, for what happens to clients when servers come and go.

As a program: python -m tests.client.server_process ARTIFACT PORT. Every line on standard input lets one step
of the engine end; `go` lets all end, `hold` none from then on.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tests.server.live import settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server import app, logs

REPOSITORY = Path(__file__).parents[2]


class ServerProcess:
    """A server that starts; its steps wait to be let through."""

    def __init__(self, artifact: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.client.server_process", str(artifact), str(port)]
        self._popen = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.port = port
        self._http_port = 0
        self._log: deque[str] = deque(maxlen=50)
        self._is_ready = threading.Event()
        self._has_ended = False
        threading.Thread(target=self._read_log, daemon=True).start()

    def wait_ready(self) -> None:
        if not self._is_ready.wait(60) or self._has_ended:
            raise RuntimeError(f"the server is not ready: {self._log}")

    def step(self, what: str = "step") -> None:
        """Lets one step end; with "go" all, and with "hold" no more."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(what + "\n")
        self._popen.stdin.flush()

    def terminate(self) -> None:
        """SIGTERM: it drains."""
        self._popen.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        return self._popen.wait(30)

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def requests(self) -> float:
        """Requests that are with the server and not answered."""
        return self.metric("cadenza_num_requests_running") + self.metric("cadenza_num_requests_waiting")

    def kill(self) -> None:
        """kill -9."""
        self._popen.kill()
        with contextlib.suppress(BrokenPipeError):
            assert self._popen.stdin is not None
            self._popen.stdin.close()
        self._popen.wait(30)

    def _read_log(self) -> None:
        """To the end, so that the server never waits for its log."""
        assert self._popen.stderr is not None
        with self._popen.stderr as log:
            for line in log:
                self._log.append(line)
                if '"listening"' in line:
                    event = json.loads(line)
                    self.port, self._http_port = event["grpc_port"], event["http_port"]
                if '"ready"' in line:
                    self._is_ready.set()
        self._has_ended = True
        self._is_ready.set()


@contextlib.contextmanager
def server_processes(artifact: Path, count: int) -> Iterator[list[ServerProcess]]:
    """Servers that are READY, on ports of their own; one that is put into the list is closed as well."""
    servers = [ServerProcess(artifact) for _ in range(count)]
    try:
        for server in servers:
            server.wait_ready()
        yield servers
    finally:
        for server in servers:
            server.kill()


def main() -> None:
    artifact, port = Path(sys.argv[1]), int(sys.argv[2])
    runner = ScriptedRunner()
    runner.hold()
    threading.Thread(target=_obey, args=(runner,), daemon=True).start()
    logs.configure("json", "info")
    chosen = settings(model=(f"tiny={artifact}",), port=port, drain_seconds=15)
    sys.exit(app.run(chosen, ScriptedLoader(lambda _: runner)))


def _obey(runner: ScriptedRunner) -> None:
    for line in sys.stdin:
        if line.strip() == "hold":
            runner.hold()
        else:
            runner.allow(*(() if line.strip() == "go" else (1,)))


if __name__ == "__main__":
    main()
