"""An authority of the test run, with a server's and a client's certificate, and what a live server needs."""

from pathlib import Path

import pytest
from tests.client.certificates import Authority, Pair
from tests.server.conftest import artifact, live, runner

__all__ = ["artifact", "live", "runner"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "one")


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "other")


@pytest.fixture(scope="session")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("localhost")


@pytest.fixture(scope="session")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("client.example")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file of one token: that of `alice`."""
    path = tmp_path / "tokens"
    path.write_text(f"alice {'a' * 32}\n")
    return path
