"""Schemathesis against the API's own description, on a server with a scripted runner.

Usage: python -m tests.http.fuzz CASES. The operations share the cases; some more are made of the edges of the
description. The exit code is 0 where no answer was a 500 or other than described.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.server.artifacts import write_artifact
from tests.server.live import live_server
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server import logs

OPERATIONS = 3
"""Those that have something to vary."""


def command(port: int, cases: int, phases: str) -> list[str]:
    """How schemathesis is run. What fits the description may still be refused: a prompt may be too long."""
    return [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"http://127.0.0.1:{port}/openapi.json",
        "--max-examples",
        str(-(-cases // OPERATIONS)),
        "--phases",
        phases,
        "--exclude-checks",
        "positive_data_acceptance",
        "--seed",
        "7",
        "--continue-on-failure",
        "--no-color",
    ]


async def _main(cases: int) -> int:
    logs.configure("human", "error")
    with tempfile.TemporaryDirectory() as folder:
        artifact = write_artifact(Path(folder) / "tiny" / "1")
        async with live_server(artifact, ScriptedRunner()) as live:
            run = command(live.ports.http, cases, "coverage,fuzzing")
            process = await asyncio.create_subprocess_exec(*run, cwd=folder)
            code = await process.wait()
            await live.still_serves()
            return code


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(int(sys.argv[1]))))
