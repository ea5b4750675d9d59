"""A server process with a scripted runner, for tests of signals and exit codes.

Usage: python -m tests.server.scripted_process ARTIFACT HOW. HOW is `free`; `held`: every line on
standard input lets one step end, and the line `fail` breaks the engine; `loading`: it never ends loading; or
`folder`: the folder of models that ARTIFACT lies in is served and looked at on SIGHUP, and version
ENDLESS_VERSION never ends loading.
"""

import sys
import threading
from pathlib import Path

from tests.server.live import settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server import app, logs
from cadenza.server.repository import Artifact

ENDLESS_VERSION = 99


def main() -> None:
    artifact, how = Path(sys.argv[1]), sys.argv[2]
    runner = ScriptedRunner()
    if how == "held":
        runner.hold()
        threading.Thread(target=_obey, args=(runner,), daemon=True).start()

    def make_runner(loaded: Artifact) -> ScriptedRunner:
        if how == "loading" or loaded.version == ENDLESS_VERSION:
            threading.Event().wait()
        return runner

    models = {"models": artifact.parents[1], "models_poll_seconds": 0}
    chosen = models if how == "folder" else {"model": (f"tiny={artifact}",)}
    logs.configure("json", "info")
    sys.exit(app.run(settings(drain_seconds=15, **chosen), ScriptedLoader(make_runner)))


def _obey(runner: ScriptedRunner) -> None:
    for line in sys.stdin:
        if line.strip() == "fail":
            runner.fail()
        runner.allow(1)


if __name__ == "__main__":
    main()
