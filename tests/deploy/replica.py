"""A server process with a scripted runner whose steps take a while: a pod, for tests that restart some.

Usage: python -m tests.deploy.replica ARTIFACT NAME PORT; NAME is the model's. Other settings come from
CADENZA_SERVER_* variables.
"""

import sys
from pathlib import Path

from tests.server.live import settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server import app, logs

STEP_SECONDS = 0.02


def main() -> None:
    artifact, name, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    logs.configure("json", "info")
    chosen = settings(model=(f"{name}={artifact}",), port=port, drain_seconds=15)
    sys.exit(app.run(chosen, ScriptedLoader(lambda _: ScriptedRunner(step_seconds=STEP_SECONDS))))


if __name__ == "__main__":
    main()
