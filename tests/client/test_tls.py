"""TLS, mutual TLS and bearer tokens against a real gRPC server with certificates of the test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests.client.certificates import Authority, Pair
from tests.client.scripted import ScriptedServer
from tests.client.twins import Twin

from cadenza.client import Client, ConnectionFailed, InvalidOption, ServingStatus, Tls, Unauthenticated

Connect = Callable[..., Twin]
Listen = Callable[[grpc.ServerCredentials | None], ScriptedServer]
ANSWER = "The capital is Paris."


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "good")


@pytest.fixture(scope="module")
def localhost(authority: Authority) -> Pair:
    return authority.issue("localhost")


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Starts servers, and stops them at the end."""
    started: list[ScriptedServer] = []

    def start(credentials: grpc.ServerCredentials | None) -> ScriptedServer:
        started.append(ScriptedServer().start(credentials=credentials))
        return started[-1]

    yield start
    for server in started:
        server.stop()


async def test_a_trusted_server_is_called_over_tls(
    connect: Connect, listen: Listen, authority: Authority, localhost: Pair
) -> None:
    server = listen(authority.server_credentials(localhost))
    twin = connect(server.target, tls=Tls(ca_file=authority.ca.cert))
    assert (await twin.call("complete", "x")).text == ANSWER
    assert (await twin.call("stream", "x")).text == ANSWER
    assert await twin.call("health") is ServingStatus.SERVING


async def test_tls_can_come_from_the_environment(
    connect: Connect,
    listen: Listen,
    authority: Authority,
    localhost: Pair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = listen(authority.server_credentials(localhost, mutual=True))
    monkeypatch.setenv("CADENZA_TARGET", server.target)
    monkeypatch.setenv("CADENZA_TLS_CA_FILE", str(authority.ca.cert))
    monkeypatch.setenv("CADENZA_TLS_CERT_FILE", str(authority.issue("client").cert))
    monkeypatch.setenv("CADENZA_TLS_KEY_FILE", str(authority.issue("client").key))
    with Client() as client:
        assert client.complete("x").text == ANSWER


async def test_mutual_tls_shows_the_clients_certificate(
    connect: Connect, listen: Listen, authority: Authority, localhost: Pair
) -> None:
    server = listen(authority.server_credentials(localhost, mutual=True))
    mine = authority.issue("client")
    good = connect(
        server.target, tls=Tls(ca_file=authority.ca.cert, cert_file=mine.cert, key_file=str(mine.key))
    )
    assert (await good.call("complete", "x")).text == ANSWER
    without = connect(server.target, tls=Tls(ca_file=authority.ca.cert), max_retries=0)
    with pytest.raises(ConnectionFailed):
        await without.call("complete", "x", timeout=10)


async def test_another_name_in_the_certificate_is_accepted_only_where_it_was_asked_for(
    connect: Connect, listen: Listen, authority: Authority
) -> None:
    server = listen(authority.server_credentials(authority.issue("cadenza.internal")))
    with pytest.raises(ConnectionFailed) as caught:
        await connect(server.target, tls=Tls(ca_file=authority.ca.cert), max_retries=0).call("complete", "x")
    assert caught.value.reason == "TLS_FAILED"
    named = Tls(ca_file=authority.ca.cert, server_name="cadenza.internal")
    assert (await connect(server.target, tls=named).call("complete", "x")).text == ANSWER


async def test_an_expired_certificate_is_refused_and_named(
    connect: Connect, listen: Listen, authority: Authority
) -> None:
    server = listen(authority.server_credentials(authority.issue("localhost", expired=True)))
    twin = connect(server.target, tls=Tls(ca_file=authority.ca.cert), max_retries=0)
    with pytest.raises(ConnectionFailed, match="expired") as caught:
        await twin.call("complete", "x")
    assert caught.value.reason == "TLS_FAILED"
    assert server.requests == []


async def test_a_certificate_of_another_authority_is_refused(
    connect: Connect, listen: Listen, authority: Authority, localhost: Pair, tmp_path: Path
) -> None:
    server = listen(authority.server_credentials(localhost))
    other = Authority(tmp_path / "other")
    for trusted in (Tls(ca_file=other.ca.cert), True):
        with pytest.raises(ConnectionFailed, match="certificate") as caught:
            await connect(server.target, tls=trusted, max_retries=0).call("complete", "x")
        assert caught.value.reason == "TLS_FAILED"
    assert server.requests == []


async def test_tls_with_a_server_that_has_none_fails_and_says_so(connect: Connect, listen: Listen) -> None:
    server = listen(None)
    with pytest.raises(ConnectionFailed) as caught:
        await connect(server.target, tls=True, max_retries=0).call("complete", "x", timeout=10)
    assert caught.value.reason == "TLS_FAILED"


async def test_plain_text_to_a_server_with_tls_fails(
    connect: Connect, listen: Listen, authority: Authority, localhost: Pair
) -> None:
    server = listen(authority.server_credentials(localhost))
    with pytest.raises(ConnectionFailed, match=server.target):
        await connect(server.target, max_retries=0).call("complete", "x", timeout=10)


@pytest.mark.parametrize(
    ("tls", "field"),
    [
        (Tls(ca_file="/no/such/file"), "tls.ca_file"),
        (Tls(ca_file=__file__), "tls.ca_file"),
        (Tls(cert_file="a.pem"), "tls.key_file"),
        (Tls(key_file="a.key"), "tls.cert_file"),
    ],
)
def test_files_that_are_no_use_are_refused_when_the_client_is_made(tls: Tls, field: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Client(tls=tls)
    assert caught.value.field_violations[0].field == field


@pytest.mark.parametrize("method", ["complete", "stream"])
async def test_a_token_goes_with_every_call(connect: Connect, server: ScriptedServer, method: str) -> None:
    server.token = "s3cret"
    assert (await connect(server.target, token="s3cret").call(method, "x")).text == ANSWER
    with pytest.raises(Unauthenticated) as caught:
        await connect(server.target, token="wrong").call(method, "x")
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(Unauthenticated):
        await connect(server.target).call(method, "x")


async def test_a_callable_gives_the_token_of_each_call(connect: Connect, server: ScriptedServer) -> None:
    tokens = iter(["first", "second"])
    twin = connect(server.target, token=lambda: next(tokens))
    for token in ("first", "second"):
        server.token = token
        await twin.call("complete", "x")


async def test_a_token_file_may_rotate(connect: Connect, server: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    twin = connect(server.target, token=file)
    with pytest.raises(Unauthenticated, match="cannot be read") as caught:
        await twin.call("complete", "x")
    assert caught.value.reason == "NO_TOKEN"
    for token in ("one", "two"):
        following = tmp_path / "next"
        following.write_text(f"{token}\n")
        following.replace(file)
        server.token = token
        await twin.call("complete", "x")


async def test_a_token_file_that_is_no_such_thing_is_not_read_whole(
    connect: Connect, server: ScriptedServer
) -> None:
    with pytest.raises(Unauthenticated, match="more than 8192 characters"):
        await connect(server.target, token=Path("/dev/zero")).call("complete", "x")


@pytest.mark.parametrize("variable", ["CADENZA_TOKEN", "CADENZA_TOKEN_FILE"])
async def test_the_token_can_come_from_the_environment(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (tmp_path / "token").write_text("s3cret")
    monkeypatch.setenv(variable, "s3cret" if variable == "CADENZA_TOKEN" else str(tmp_path / "token"))
    server.token = "s3cret"
    with Client(server.target) as client:
        client.complete("x")


@pytest.mark.parametrize("token", ["", "two words", "line\nfeed", "schlüssel"])
async def test_what_is_no_token_is_not_sent(connect: Connect, server: ScriptedServer, token: str) -> None:
    with pytest.raises(Unauthenticated, match="printable ASCII"):
        await connect(server.target, token=lambda: token).call("complete", "x")
    assert server.requests == []


@pytest.mark.parametrize(
    "target", ["models.example.com:8500", "10.0.0.7:8500", "dns:///localhost.evil.com:1"]
)
def test_a_token_is_not_sent_in_plain_text_to_another_host(target: str) -> None:
    with pytest.raises(InvalidOption, match="without TLS"):
        Client(target, token="s3cret")
    Client(target, token="s3cret", tls=True).close()
    Client(target, token="s3cret", plaintext_token=True).close()


@pytest.mark.parametrize(
    "target",
    ["localhost:8500", "dns:///127.0.0.1:1", "[::1]:8500", "unix:/tmp/x", "ipv4:127.0.0.1:1,127.0.0.2:1"],
)
def test_a_token_may_go_to_this_host_in_plain_text(target: str) -> None:
    Client(target, token="s3cret").close()
