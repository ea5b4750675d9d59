"""Runs a command and says how long it took and how much memory it had resident at most.

A process starts with the peak of the one that started it (getrusage(2)), which a test run's would swamp, so
a small Python stands between: this file, run as a script.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Used:
    """What one process took."""

    seconds: float
    peak: int
    """Bytes resident at most; mapped files count."""
    status: int
    """Its exit code, negative for a signal."""
    printed: str
    """What it wrote to stdout."""


def run(command: Sequence[str]) -> Used:
    """Runs a command, the path of its program first, to its end; its stderr is the caller's."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as report:
        between = [sys.executable, "-S", str(Path(__file__).resolve()), str(writing), *command]
        with subprocess.Popen(between, stdout=subprocess.PIPE, text=True, pass_fds=[writing]) as process:
            os.close(writing)
            printed, _ = process.communicate()
        return Used(**json.loads(report.read()), printed=printed)


def _between(report: int, command: list[str]) -> None:
    begin = time.perf_counter()
    os.set_inheritable(report, False)
    child = os.spawnv(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(child, 0)
    seconds, peak = time.perf_counter() - begin, usage.ru_maxrss * 1024
    with os.fdopen(report, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "peak": peak, "status": os.waitstatus_to_exitcode(status)}, file)


if __name__ == "__main__":
    _between(int(sys.argv[1]), sys.argv[2:])
