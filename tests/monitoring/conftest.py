"""The small artifact of the server's tests."""

from tests.server.conftest import artifact

__all__ = ["artifact"]
