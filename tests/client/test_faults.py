"""What goes wrong between client and server, each over a real socket, ends in a typed error and in time."""

import asyncio
import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.client.scripted import ScriptedServer
from tests.client.twins import Twin

from cadenza.client import AsyncClient, Client, ConnectionFailed, DeadlineExceeded, InternalError

Connect = Callable[..., Twin]
WAIT = 10
PING = 6
"""The type of a frame; its flags are 1 where it answers another."""


class Proxy:
    """Passes bytes between clients and a server, until it freezes: connections stay, but are silent."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.is_frozen = threading.Event()
        self.sent = bytearray()
        """By clients."""
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                far = socket.create_connection(("localhost", self._to))
                self._sockets.append(far)
                for source, sink, kept in ((near, far, self.sent), (far, near, None)):
                    threading.Thread(target=self._pass, args=(source, sink, kept), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and not self.is_frozen.is_set():
                if kept is not None:
                    kept += data
                sink.sendall(data)


@pytest.fixture
def proxy(server: ScriptedServer) -> Iterator[Proxy]:
    one = Proxy(server.port)
    yield one
    one.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def http_target() -> Iterator[str]:
    """A port of the wrong kind."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - inherited

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as page:
        threading.Thread(target=page.serve_forever).start()
        yield f"127.0.0.1:{page.server_port}"
        page.shutdown()


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_the_wrong_port_is_named(connect: Connect, http_target: str, method: str) -> None:
    with pytest.raises(ConnectionFailed, match=http_target):
        await connect(http_target, max_retries=1).call(method, "x", timeout=WAIT)


@pytest.mark.parametrize("method", ["complete", "stream", "health"])
async def test_a_host_name_that_does_not_exist_is_named(connect: Connect, method: str) -> None:
    arguments = [] if method == "health" else ["x"]
    twin = connect("no-such-host.invalid:8500", max_retries=0)
    with pytest.raises(ConnectionFailed, match="no-such-host"):
        await twin.call(method, *arguments, timeout=WAIT)


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_the_deadline_holds_while_connecting(connect: Connect, silent: str, method: str) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        await connect(silent).call(method, "x", timeout=0.3)


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_the_deadline_holds_before_the_first_message(
    connect: Connect, server: ScriptedServer, method: str
) -> None:
    server.hangs_after = 0
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        await connect(server.target).call(method, "x", timeout=0.3)
    assert await asyncio.to_thread(server.cancelled.wait, WAIT)


async def test_the_deadline_holds_between_messages(connect: Connect, server: ScriptedServer) -> None:
    server.hangs_after = 1
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        await connect(server.target).call("stream", "x", timeout=0.3)
    assert await asyncio.to_thread(server.cancelled.wait, WAIT)


def test_a_connection_that_died_in_silence_is_found_by_pings(server: ScriptedServer, proxy: Proxy) -> None:
    server.hangs_after = 1
    with Client(proxy.target, keepalive=0.5) as client:
        stream = client.stream("x")
        next(stream)
        proxy.is_frozen.set()
        with pytest.raises(ConnectionFailed):
            next(stream)


def test_a_stream_is_no_reason_for_pings(server: ScriptedServer, proxy: Proxy) -> None:
    """A server ends connections on which it is pinged often, as HTTP/2 wants it."""
    with Client(proxy.target) as client:
        for _ in range(3):
            assert client.stream("x").collect().text
    assert not [frame for frame in frames(proxy.sent) if frame == (PING, 0)]
    assert frames(proxy.sent)


def frames(sent: bytearray) -> list[tuple[int, int]]:
    """Type and flags of the HTTP/2 frames (RFC 9113, section 4.1) of one connection, in order."""
    found = []
    at = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    while at < len(sent):
        found.append((sent[at + 3], sent[at + 4]))
        at += 9 + int.from_bytes(sent[at : at + 3])
    return found


async def test_a_connection_that_died_in_silence_is_found_by_async_pings(
    server: ScriptedServer, proxy: Proxy
) -> None:
    server.hangs_after = 1
    async with AsyncClient(proxy.target, keepalive=0.5) as client:
        stream = client.stream("x")
        await anext(stream)
        proxy.is_frozen.set()
        with pytest.raises(ConnectionFailed):
            await anext(stream)


async def test_a_connection_cut_before_the_first_message_is_made_anew(
    server: ScriptedServer, async_client: AsyncClient
) -> None:
    server.hangs_after = 0
    stream = async_client.stream("x")
    reading = asyncio.create_task(stream.collect())
    assert await asyncio.to_thread(server.hanging.wait, WAIT)
    port = server.port
    await asyncio.to_thread(server.stop)
    with ScriptedServerOn(port):
        assert (await reading).text == "The capital is Paris."


async def test_a_connection_cut_after_the_first_message_is_an_error(
    server: ScriptedServer, async_client: AsyncClient
) -> None:
    server.hangs_after = 1
    stream = async_client.stream("x")
    await anext(stream)
    await asyncio.to_thread(server.stop)
    with pytest.raises((ConnectionFailed, InternalError)):
        await stream.collect()
    assert len(server.requests) == 1


@contextlib.contextmanager
def ScriptedServerOn(port: int) -> Iterator[ScriptedServer]:  # noqa: N802 - reads as a server
    again = ScriptedServer().start(port)
    yield again
    again.stop()


def resources() -> tuple[int, int, int]:
    """Python's threads but the server's pool, all other threads, and open descriptors of this process."""
    threads = threading.enumerate()
    pool = sum(thread.name.startswith("ThreadPoolExecutor") for thread in threads)
    natives = len(list(Path("/proc/self/task").iterdir()))
    return len(threads) - pool, natives - len(threads), len(list(Path("/proc/self/fd").iterdir()))


async def test_a_thousand_abandoned_streams_leave_nothing_behind(server: ScriptedServer) -> None:
    server.answer = server.answer * 8
    async with AsyncClient(server.target) as client:

        async def abandon() -> None:
            async for _ in client.stream("x"):
                break

        await abandon()
        before = (*resources(), len(asyncio.all_tasks()))
        for _ in range(20):
            await asyncio.gather(*(abandon() for _ in range(50)))
        assert (await client.complete("x")).text
        await settled(lambda: (*resources(), len(asyncio.all_tasks())), before)
    assert len(server.requests) == 1002


async def test_a_thousand_abandoned_sync_streams_leave_nothing_behind(server: ScriptedServer) -> None:
    server.answer = server.answer * 8
    with Client(server.target) as client:
        next(client.stream("x"))
        before = resources()
        for number in range(1000):
            stream = client.stream("x")
            next(stream)
            if number % 2:
                stream.cancel()
        del stream
        assert client.complete("x").text
        await settled(resources, before)
    assert len(server.requests) == 1002


async def settled(measure: Callable[[], tuple[int, ...]], before: tuple[int, ...]) -> None:
    """Waits until no measure is above what it was, a few threads of gRPC's own pool aside."""
    async with asyncio.timeout(WAIT):
        while any(  # noqa: ASYNC110 - nothing tells when gRPC has closed what it had open
            now > then + 4 for now, then in zip(measure(), before, strict=True)
        ):
            await asyncio.sleep(0.05)
