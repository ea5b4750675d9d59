"""A live server of a small artifact with signatures, and a client of TensorFlow Serving's API to it."""

from pathlib import Path

import pytest
from tests.server.conftest import live, runner
from tests.server.live import Live
from tests.tfserving.client import ServingClient
from tests.tfserving.graphs import write_served_artifact

__all__ = ["live", "runner"]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_served_artifact(tmp_path / "models" / "tiny" / "7")


@pytest.fixture
def client(live: Live) -> ServingClient:
    return ServingClient(live.channel)
