"""A small artifact, a scripted runner, and a live server of the two."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.artifacts import write_artifact
from tests.server.live import Live, live_server
from tests.server.scripted_runner import ScriptedRunner


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "models" / "tiny" / "7")


@pytest.fixture
def runner() -> ScriptedRunner:
    return ScriptedRunner()


@pytest.fixture
async def live(artifact: Path, runner: ScriptedRunner) -> AsyncIterator[Live]:
    async with live_server(artifact, runner) as one:
        yield one
