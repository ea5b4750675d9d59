"""The small artifact of the server's tests, and Prometheus where it can be had."""

import pytest
from deploy.demo.packages import FetchError
from deploy.setup.prometheus import ensure_prometheus
from tests.server.conftest import artifact

__all__ = ["artifact"]


@pytest.fixture(scope="session")
def tools() -> None:
    """Both programs are there. `make check` demands them; without them tests that need them are skipped."""
    try:
        ensure_prometheus()
    except FetchError as error:
        pytest.skip(str(error))
