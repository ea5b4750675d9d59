"""The examples run as they are, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.client.scripted import ScriptedServer

EXAMPLES = sorted((Path(__file__).parents[2] / "client" / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_example_runs(server: ScriptedServer, example: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        env={**os.environ, "CADENZA_TARGET": server.target},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "The capital is Paris." in done.stdout
    assert server.requests
