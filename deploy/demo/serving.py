"""Runs `cadenza-server` as a process of its own, as the demo, the benchmarks and the tests need it."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class ServerError(Exception):
    """The server did not start or did not stop as it should."""


@dataclasses.dataclass(slots=True)
class ServerProcess:
    """A running server. Its log is read by a thread as it comes."""

    process: subprocess.Popen[str]
    grpc_port: int = 0
    http_port: int = 0
    ready_seconds: float = 0.0
    """From the process's start to READY, by the wall clock of this process."""
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Parsed log lines."""
    noise: list[str] = dataclasses.field(default_factory=list)
    """Lines on stderr that are no log lines."""

    @property
    def target(self) -> str:
        """What clients connect to."""
        return f"localhost:{self.grpc_port}"

    @property
    def children(self) -> list[int]:
        """The processes that the server has started and that have not ended."""
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if _status(int(folder.name)).get("PPid") == str(self.process.pid)
        ]

    def peak_bytes(self) -> int:
        """The most memory that was resident, from Linux's accounting (VmHWM); with its children's."""
        return self._status_bytes("VmHWM")

    def resident_bytes(self) -> int:
        """The memory that is resident now (VmRSS); with its children's. Mapped files count."""
        return self._status_bytes("VmRSS")

    def _status_bytes(self, name: str) -> int:
        sizes = [_status(pid).get(name, "0 kB") for pid in (self.process.pid, *self.children)]
        return sum(int(size.split()[0]) for size in sizes) * 1024

    def terminate(self, timeout: float = 60.0) -> int:
        """Sends SIGTERM and waits; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextlib.contextmanager
def serve(models: dict[str, Path], *flags: str, timeout: float = 120.0) -> Iterator[ServerProcess]:
    """Starts a server on free ports with these models and yields it when it is READY; stops it at the end.

    Raises ServerError where it is not READY within `timeout` seconds; the message ends with its log.
    """
    model_flags = [flag for name, path in models.items() for flag in ("--model", f"{name}={path}")]
    command = [
        sys.executable, "-m", "cadenza.server", *model_flags,
        "--host", "127.0.0.1", "--port", "0", "--http-port", "0", "--log-format", "json", *flags,
    ]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    server = ServerProcess(process)
    changed = threading.Event()
    reader = threading.Thread(target=_read_log, args=(server, start, changed), daemon=True)
    reader.start()
    try:
        if not changed.wait(timeout) or not server.ready_seconds:
            raise ServerError(f"the server is not ready after {timeout:.0f} s; it said:\n{_tail(server)}")
        yield server
    finally:
        if process.poll() is None:
            server.terminate()
        reader.join()
        if process.stderr is not None:
            process.stderr.close()


def _status(pid: int) -> dict[str, str]:
    """What Linux says of a process; nothing where there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _read_log(server: ServerProcess, start: float, changed: threading.Event) -> None:
    """Parses lines until the process closes its stderr; sets `changed` when it is READY or gone."""
    stream: Sequence[str] = server.process.stderr  # type: ignore[assignment]
    for line in stream:
        try:
            entry = json.loads(line)
        except ValueError:
            server.noise.append(line.rstrip())
            continue
        server.log.append(entry)
        if entry.get("event") == "listening":
            server.grpc_port, server.http_port = entry["grpc_port"], entry["http_port"]
        elif entry.get("event") == "ready":
            server.ready_seconds = time.perf_counter() - start
            changed.set()
    changed.set()


def _tail(server: ServerProcess) -> str:
    return "\n".join([*server.noise, *(json.dumps(entry) for entry in server.log[-20:])])
