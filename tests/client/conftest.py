"""A scripted server on a real socket, and a client of each kind on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.client.scripted import ScriptedServer

from cadenza.client import AsyncClient, Client


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer().start()
    scripted.set_serving(serving=True)
    yield scripted
    scripted.stop()


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with Client(server.target) as one:
        yield one


@pytest.fixture
async def async_client(server: ScriptedServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.target) as one:
        yield one
