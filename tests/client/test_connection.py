"""How clients connect: which addresses get calls, what goes with each, and what bounds a message."""

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.client.scripted import ScriptedServer
from tests.client.twins import SyncTwin, Twin

from cadenza.client import (
    AsyncClient,
    Client,
    InvalidOption,
    ResourceExhausted,
    ServingStatus,
    Unavailable,
    Unusable,
)

Connect = Callable[..., Twin]


@pytest.fixture
def three() -> Iterator[list[ScriptedServer]]:
    servers = [ScriptedServer().start() for _ in range(3)]
    yield servers
    for server in servers:
        server.stop()


def target_of(servers: list[ScriptedServer]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


async def test_calls_go_round_robin_to_all_addresses(connect: Connect, three: list[ScriptedServer]) -> None:
    twin = connect(target_of(three))
    while not all(server.requests for server in three):  # until every connection stands
        await twin.call("complete", "x")
    for server in three:
        server.requests.clear()
    for _ in range(10):
        await twin.call("complete", "x")
        await twin.call("stream", "x")
        await twin.call("count_tokens", "x")
    assert [len(server.requests) for server in three] == [10, 10, 10]


async def test_an_address_that_does_not_serve_gets_no_calls(
    connect: Connect, three: list[ScriptedServer]
) -> None:
    ill, *well = three
    ill.set_serving(serving=False)
    twin = connect(target_of(three))
    for _ in range(10):
        await twin.call("complete", "x")
    assert ill.requests == []
    assert sum(len(server.requests) for server in well) == 10
    ill.set_serving(serving=True)
    while not ill.requests:
        await twin.call("complete", "x")
    ill.set_serving(serving=False)
    served = -1
    while len(ill.requests) != served:  # until the news has come
        served = len(ill.requests)
        for _ in range(10):
            await twin.call("complete", "x")


async def test_where_no_address_serves_calls_fail_and_health_is_told(
    connect: Connect, server: ScriptedServer
) -> None:
    server.set_serving(serving=False)
    twin = connect(server.target)
    with pytest.raises(Unavailable):
        await twin.call("complete", "x", max_retries=1)
    assert await twin.call("health") is ServingStatus.NOT_SERVING
    assert server.requests == []


async def test_after_the_wait_for_ready_the_next_call_is_served_without_retries(
    connect: Connect, server: ScriptedServer
) -> None:
    server.set_serving(serving=False)
    twin = connect(server.target)
    with pytest.raises(Unavailable):
        await twin.call("complete", "x", max_retries=0)
    server.set_serving(serving=True)
    if isinstance(twin, SyncTwin):
        twin.client.wait_ready(10)
    else:
        await twin.client.wait_ready(10)
    assert await twin.call("complete", "x", max_retries=0)


@pytest.mark.parametrize("form", ["localhost:{}", "dns:///localhost:{}", "ipv4:127.0.0.1:{}"])
async def test_targets_have_the_forms_of_grpc(connect: Connect, server: ScriptedServer, form: str) -> None:
    assert await connect(form.format(server.port)).call("complete", "x")


async def test_every_call_says_who_calls_and_has_an_id(connect: Connect, server: ScriptedServer) -> None:
    twin = connect(server.target)
    await twin.call("complete", "x")
    await twin.call("stream", "x")
    for metadata in server.metadata:
        assert str(metadata["user-agent"]).startswith(f"cadenza/{version('cadenza')} python/3.")
    ids = [str(metadata["x-request-id"]) for metadata in server.metadata]
    assert len(set(ids)) == 2
    assert all(len(one) == 32 for one in ids)


def test_a_stream_knows_its_request_id(server: ScriptedServer, client: Client) -> None:
    stream = client.stream("x")
    stream.collect()
    assert server.metadata[0]["x-request-id"] == stream.request_id
    assert client.stream("x", request_id="mine").request_id == "mine"


async def test_a_request_beyond_the_bound_is_not_sent(connect: Connect, server: ScriptedServer) -> None:
    with pytest.raises(ResourceExhausted, match="larger than max"):
        await connect(server.target, max_message_bytes=1000).call("complete", "x" * 2000)
    assert server.requests == []


async def test_an_answer_beyond_the_bound_is_refused(connect: Connect, server: ScriptedServer) -> None:
    twin = connect(server.target, max_message_bytes=20)
    for method in ("complete", "stream"):
        with pytest.raises(ResourceExhausted, match="larger than max"):
            await twin.call(method, "")
    assert len(server.requests) == 2


async def test_a_request_beyond_the_servers_bound_is_refused_by_it(
    connect: Connect, server: ScriptedServer
) -> None:
    with pytest.raises(ResourceExhausted, match="larger than max"):
        await connect(server.target).call("complete", "x" * 5_000_000)
    assert server.requests == []


async def test_defaults_can_be_changed_for_some_calls(server: ScriptedServer, connect: Connect) -> None:
    twin = connect(server.target, model="m", timeout=50)
    await twin.call("complete", "x")
    base, twin.client = (
        twin.client,
        twin.client.with_options(temperature=0, model="other", timeout=5, client_id="team"),
    )
    await twin.call("complete", "x", top_k=3)
    await twin.call("complete", "x", temperature=1, model="third")
    await twin.call("count_tokens", "x")
    twin.client = base
    await twin.call("complete", "x")
    assert [request.model for request in server.requests] == ["m", "other", "third", "other", "m"]  # type: ignore[attr-defined]
    parameters = [request.parameters for request in (*server.requests[:3], server.requests[4])]  # type: ignore[attr-defined]
    assert [one.HasField("temperature") for one in parameters] == [False, True, True, False]
    assert [(one.temperature, one.top_k) for one in parameters[1:3]] == [(0, 3), (1, 0)]
    assert [metadata.get("cadenza-client-id") for metadata in server.metadata] == [None, *["team"] * 3, None]
    limits = [left is not None and left < 6 for left in server.seconds_left]
    assert limits == [False, True, True, True, False]


async def test_a_default_of_the_wrong_type_is_refused(connect: Connect) -> None:
    with pytest.raises(InvalidOption, match="temprature"):
        connect("localhost:1").client.with_options(temprature=1)  # type: ignore[call-arg]


class CountCalls(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
):
    """Counts calls by method."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen[details.method.rpartition("/")[2]] += 1
        return continuation(details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self.intercept_unary_unary(continuation, details, request)


class CountAsyncUnary(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts unary calls."""

    def __init__(self, seen: Counter[str]) -> None:
        self.seen = seen

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen[details.method.decode().rpartition("/")[2]] += 1
        return await continuation(details, request)


class CountAsyncStreams(grpc.aio.UnaryStreamClientInterceptor):
    """Counts streams."""

    def __init__(self, seen: Counter[str]) -> None:
        self.seen = seen

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen[details.method.decode().rpartition("/")[2]] += 1
        return await continuation(details, request)


EVERY_CALL = {"CreateCompletion": 1, "StreamCompletion": 1, "Check": 1}


def test_interceptors_see_every_call(server: ScriptedServer) -> None:
    count = CountCalls()
    with Client(server.target, interceptors=[count]) as client:
        client.complete("x")
        with client.stream("x") as stream:
            assert stream.collect().text == "The capital is Paris."
        client.health()
    assert count.seen == EVERY_CALL


async def test_async_interceptors_see_every_call(server: ScriptedServer) -> None:
    seen: Counter[str] = Counter()
    interceptors = [CountAsyncUnary(seen), CountAsyncStreams(seen)]
    async with AsyncClient(server.target, interceptors=interceptors) as client:
        await client.complete("x")
        async with client.stream("x") as stream:
            assert (await stream.collect()).text == "The capital is Paris."
        await client.health()
    assert seen == EVERY_CALL


@pytest.mark.parametrize("method", ["complete", "stream", "health", "models"])
async def test_a_closed_client_says_so(connect: Connect, server: ScriptedServer, method: str) -> None:
    arguments = ["x"] if method in ("complete", "stream") else []
    for used in (False, True):
        twin = connect(server.target)
        if used:
            await twin.call("complete", "x")
        await twin.close()
        await twin.close()
        with pytest.raises(Unusable, match="closed") as caught:
            await twin.call(method, *arguments)
        assert caught.value.reason == "CLIENT_CLOSED"
