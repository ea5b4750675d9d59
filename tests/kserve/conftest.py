"""A live server with a scripted runner, and the stub of its inference service."""

from typing import Any

import pytest
from tests.kserve.client import inference
from tests.server.conftest import artifact, live, runner
from tests.server.live import Live

__all__ = ["artifact", "live", "runner"]


@pytest.fixture
def stub(live: Live) -> Any:
    return inference(live.channel)
