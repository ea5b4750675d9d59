"""Clients of real server processes: balance, a server killed, one that drains, one that is full."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.certificates import Authority
from tests.client.server_process import ServerProcess, server_processes
from tests.server.artifacts import write_artifact

from cadenza.client import (
    AsyncClient,
    AsyncStream,
    Client,
    Completion,
    ConnectionFailed,
    DeadlineExceeded,
    QueueFull,
    ServingStatus,
    Tls,
    Unauthenticated,
    Unavailable,
)

WAIT = 20
TOKEN = "0123456789abcdef-of-the-team"
ANSWERED = "cadenza_requests_finished_total"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("models") / "tiny" / "7")


@pytest.fixture(scope="module")
def three(artifact: Path) -> Iterator[list[ServerProcess]]:
    with server_processes(artifact, 3) as servers:
        yield servers


def target_of(servers: list[ServerProcess]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


async def all_reached(client: AsyncClient, servers: list[ServerProcess]) -> None:
    """Waits until every server has answered a completion; their steps run freely meanwhile."""
    async with asyncio.timeout(WAIT):
        while not all([await asyncio.to_thread(server.metric, ANSWERED) for server in servers]):
            await asyncio.gather(*(client.complete("a", max_tokens=1) for _ in range(9)))


async def until_asked(server: ServerProcess, count: int) -> None:
    """Waits until so many requests are with this server."""
    async with asyncio.timeout(WAIT):
        while server.requests() < count:  # noqa: ASYNC110 - only the page of metrics can be asked
            await asyncio.sleep(0.02)


async def test_requests_spread_evenly_over_three_servers(three: list[ServerProcess]) -> None:
    for server in three:
        server.step("go")
    async with AsyncClient(target_of(three)) as client:
        await all_reached(client, three)
        before = [server.metric(ANSWERED) for server in three]
        for _ in range(10):
            await asyncio.gather(*(client.complete("a", max_tokens=2) for _ in range(30)))
        counts = [server.metric(ANSWERED) - then for server, then in zip(three, before, strict=True)]
    assert sum(counts) == 300
    assert all(90 <= count <= 110 for count in counts), counts


async def test_the_deadline_holds_in_the_queue_in_prefill_and_in_decode(three: list[ServerProcess]) -> None:
    for server in three:
        server.step("hold")
    async with AsyncClient(target_of(three)) as client:
        streams = [client.stream("a", max_tokens=9, timeout=3) for _ in range(15)]
        reading = [asyncio.create_task(read(stream)) for stream in streams]
        await asyncio.wait(reading, timeout=1)
        for server in three:
            for _ in range(3):
                server.step()
        shown = await asyncio.gather(*reading)
        assert "" in shown
        assert any(text and "abcdefghijk".find(text) == 1 for text in shown)
        for server in three:
            server.step("go")
        async with asyncio.timeout(WAIT):
            while any(server.requests() for server in three):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)


async def read(stream: AsyncStream) -> str:
    """What came before the deadline."""
    pieces: list[str] = []
    try:
        async for text in stream.text():
            pieces.append(text)  # noqa: PERF401 - they are wanted when the stream fails too
    except DeadlineExceeded:
        return "".join(pieces)
    raise AssertionError("the deadline did not hold")


async def test_a_killed_server_costs_no_call_that_has_no_token_yet_and_comes_back(
    three: list[ServerProcess], artifact: Path
) -> None:
    victim, *survivors = three
    for server in three:
        server.step("hold")
    async with AsyncClient(target_of(three), timeout=60) as client:
        begun = await streams_on_all(client, three)
        first = [asyncio.create_task(anext(stream)) for stream in begun]
        for _ in range(2):  # the prompt's step brings no message
            victim.step()
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT)
        tokenless = await streams_on_all(client, three)
        unary = [asyncio.create_task(client.complete("p", max_tokens=3)) for _ in range(6)]
        with_token = next(stream for stream, task in zip(begun, first, strict=True) if task.done())
        await asyncio.to_thread(victim.kill)
        for server in survivors:
            server.step("go")
        with pytest.raises(ConnectionFailed):
            await with_token.collect()
        for task in first:
            task.cancel()
        assert {(await stream.collect()).text for stream in tokenless} == {"bcd"}
        assert {completion.text for completion in await asyncio.gather(*unary)} == {"qrs"}

        for _ in range(20):
            await client.complete("a", max_tokens=1, max_retries=0)
        three[0] = ServerProcess(artifact, victim.port)
        await asyncio.to_thread(three[0].wait_ready)
        three[0].step("go")
        await all_reached(client, three)


async def streams_on_all(client: AsyncClient, servers: list[ServerProcess]) -> list[AsyncStream]:
    """Begins streams until every server has got one more than it had."""
    wanted = [server.requests() + 1 for server in servers]
    streams: list[AsyncStream] = []
    while any(server.requests() < least for server, least in zip(servers, wanted, strict=True)):
        before = sum(server.requests() for server in servers)
        streams.append(client.stream("a", max_tokens=3))
        async with asyncio.timeout(WAIT):
            while sum(server.requests() for server in servers) == before:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
    return streams


async def test_a_stream_on_a_server_that_drains_goes_on_to_its_end(artifact: Path) -> None:
    with server_processes(artifact, 1) as (leaving,):
        async with AsyncClient(f"127.0.0.1:{leaving.port}", max_retries=0) as client:
            stream = client.stream("a", max_tokens=3)
            await until_asked(leaving, 1)
            leaving.terminate()
            with pytest.raises(Unavailable):
                await calls_until_one_fails(client)
            leaving.step("go")
            assert (await stream.collect()).text == "bcd"
        assert await asyncio.to_thread(leaving.exit_code) == 0


async def calls_until_one_fails(client: AsyncClient) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            await client.count_tokens("x")


async def test_calls_leave_a_server_that_drains_for_another(artifact: Path) -> None:
    with server_processes(artifact, 2) as two:
        for server in two:
            server.step("go")
        async with AsyncClient(target_of(two)) as client:
            await all_reached(client, two)
            two[0].terminate()
            for _ in range(100):
                assert (await client.complete("a", max_tokens=2)).text == "bc"
        assert await asyncio.to_thread(two[0].exit_code) == 0


async def test_a_full_server_is_asked_again_when_it_said(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CADENZA_SERVER_MAX_QUEUE_REQUESTS", "1")
    with server_processes(artifact, 1) as (server,):
        async with AsyncClient(f"127.0.0.1:{server.port}") as client:
            taken = await completions_until_full(client)
            again = asyncio.create_task(client.complete("k", max_tokens=3))
            server.step("go")
            assert {completion.text for completion in await asyncio.gather(*taken)} == {"bcd"}
            assert (await again).text == "lmn"


async def completions_until_full(client: AsyncClient) -> list["asyncio.Task[Completion]"]:
    """Asks until the server refuses, and gives what it took."""
    taken: list[asyncio.Task[Completion]] = []
    while len(taken) < 20:
        asked = asyncio.create_task(client.complete("a", max_tokens=3, max_retries=0))
        await asyncio.wait([asked], timeout=0.3)
        if asked.done():
            with pytest.raises(QueueFull) as caught:
                await asked
            assert caught.value.retry_after is not None
            return taken
        taken.append(asked)
    raise AssertionError("the server took 20 requests")


def test_client_and_server_agree_on_tls_and_tokens(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "pki")
    pair, mine = authority.issue("localhost"), authority.issue("client")
    (tmp_path / "tokens").write_text(f"team {TOKEN}\n")
    (tmp_path / "token").write_text(TOKEN)
    for name, value in {
        "TLS_CERTIFICATE": pair.cert,
        "TLS_KEY": pair.key,
        "TLS_CLIENT_CA": authority.ca.cert,
        "TOKEN_FILE": tmp_path / "tokens",
    }.items():
        monkeypatch.setenv(f"CADENZA_SERVER_{name}", str(value))
    tls = Tls(ca_file=authority.ca.cert, cert_file=mine.cert, key_file=mine.key, server_name="localhost")
    with server_processes(artifact, 1) as (server,):
        target = f"127.0.0.1:{server.port}"
        with Client(target, tls=tls, token=tmp_path / "token") as client:
            client.wait_ready()
            assert client.count_tokens("abc").prompt_tokens == 3
        with Client(target, tls=tls) as client:
            assert client.health() is ServingStatus.SERVING
            with pytest.raises(Unauthenticated):
                client.count_tokens("abc")
        without = Tls(ca_file=authority.ca.cert, server_name="localhost")
        with Client(target, tls=without, max_retries=0) as client, pytest.raises(ConnectionFailed):
            client.health()
