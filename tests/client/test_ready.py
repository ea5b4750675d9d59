"""`wait_ready` against servers that are late, loading or absent."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.client.scripted import ScriptedServer

from cadenza.client import AsyncClient, Client, DeadlineExceeded, InvalidOption


@pytest.fixture
def late() -> Iterator[tuple[ScriptedServer, int]]:
    """A server that is not started yet, and the port for it."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = ScriptedServer()
    server.set_serving(serving=False)
    yield server, port
    server.stop()


def test_a_server_that_is_ready_ends_the_wait_at_once(client: Client) -> None:
    client.wait_ready(timeout=10)


def test_the_wait_ends_when_a_server_that_came_later_is_ready(late: tuple[ScriptedServer, int]) -> None:
    server, port = late
    with Client(f"localhost:{port}") as client, ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.wait_ready, 20)
        with pytest.raises(DeadlineExceeded, match="never answered"):
            client.wait_ready(0.2)
        server.start(port)
        with pytest.raises(DeadlineExceeded, match="NOT_SERVING"):
            client.wait_ready(2)
        assert not waiting.done()
        server.set_serving(serving=True)
        waiting.result(20)


async def test_the_async_wait_ends_when_a_server_that_came_later_is_ready(
    late: tuple[ScriptedServer, int],
) -> None:
    server, port = late
    async with AsyncClient(f"localhost:{port}") as client:
        waiting = asyncio.create_task(client.wait_ready(20))
        with pytest.raises(DeadlineExceeded, match="never answered"):
            await client.wait_ready(0.2)
        server.start(port)
        with pytest.raises(DeadlineExceeded, match="NOT_SERVING"):
            await client.wait_ready(2)
        assert not waiting.done()
        server.set_serving(serving=True)
        await waiting


def test_a_wait_without_time_is_refused(client: Client) -> None:
    with pytest.raises(InvalidOption, match="timeout"):
        client.wait_ready(0)
