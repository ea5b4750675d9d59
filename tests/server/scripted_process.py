"""A server process with a scripted runner, for tests of signals and exit codes.

Usage: python -m tests.server.scripted_process ARTIFACT HOW. HOW is `free`; `held`: every line on
standard input lets one step end, and the line `fail` breaks the engine; or `loading`: it never ends loading.
"""

import sys
import threading
from pathlib import Path

from tests.server.live import settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server import app, logs
from cadenza.server.repository import Artifact


def main() -> None:
    artifact, how = Path(sys.argv[1]), sys.argv[2]
    runner = ScriptedRunner()
    if how == "held":
        runner.hold()
        threading.Thread(target=_obey, args=(runner,), daemon=True).start()

    def make_runner(_: Artifact) -> ScriptedRunner:
        if how == "loading":
            threading.Event().wait()
        return runner

    logs.configure("json", "info")
    sys.exit(app.run(settings(model=(f"tiny={artifact}",), drain_seconds=15), ScriptedLoader(make_runner)))


def _obey(runner: ScriptedRunner) -> None:
    for line in sys.stdin:
        if line.strip() == "fail":
            runner.fail()
        runner.allow(1)


if __name__ == "__main__":
    main()
