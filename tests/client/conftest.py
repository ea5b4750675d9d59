"""A scripted server on a real socket, and a client of each kind on it."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.client.scripted import ScriptedServer
from tests.client.twins import AsyncTwin, SyncTwin, Twin

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


@pytest.fixture(params=[SyncTwin, AsyncTwin], ids=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Twin]]:
    """Makes clients of one kind, and closes them at the end."""
    made: list[Twin] = []

    def make(target: str, **options: object) -> Twin:
        made.append(request.param(target, **options))
        return made[-1]

    yield make
    for twin in made:
        await twin.close()
