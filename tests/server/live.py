"""A whole server on real sockets in the test's own loop, with a scripted runner behind it."""

import asyncio
import dataclasses
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.app import MakeTracer, Ports, Server, choose_tracer
from cadenza.server.config import Settings
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc


@dataclasses.dataclass
class Live:
    """The server, a channel to it, and what stands behind it."""

    server: Server
    ports: Ports
    channel: grpc.aio.Channel
    stub: "pb_grpc.CompletionServiceAsyncStub"
    runner: ScriptedRunner

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of an HTTP page."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self.ports.http}{path}")

    async def metric(self, name: str) -> float:
        """The sum of a metric's series whose line begins with `name`."""
        _, text = await self.get("/metrics")
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
        return sum(map(float, values))

    async def begun(self, step: int) -> None:
        """Waits until the runner was asked for that many steps."""
        await asyncio.to_thread(self.runner.wait_for_step, step)

    async def until(self, metric: str, value: float) -> None:
        """Asks for a metric until it has the value; the server works between the questions."""
        async with asyncio.timeout(10):
            while await self.metric(metric) != value:  # noqa: ASYNC110 only the page can be asked
                await asyncio.sleep(0)

    async def text(self, prompt: str, **parameters: Any) -> str:
        """The greedy completion of a text."""
        response = await self.stub.CreateCompletion(create(prompt, **parameters))
        return response.choices[0].text

    async def still_serves(self) -> None:
        """A plain request gets its plain answer."""
        assert await self.text("a", max_tokens=3) == "bcd"


def create(prompt: str, **parameters: Any) -> pb.CreateCompletionRequest:
    """A request to complete a text."""
    return pb.CreateCompletionRequest(
        prompt=pb.Prompt(text=prompt), parameters=pb.CompletionParameters(**parameters)
    )


def stream(prompt: str, **parameters: Any) -> pb.StreamCompletionRequest:
    """A request to stream the completion of a text."""
    return pb.StreamCompletionRequest(
        prompt=pb.Prompt(text=prompt), parameters=pb.CompletionParameters(**parameters)
    )


def settings(**changes: Any) -> Settings:
    """Settings for a server on free ports of the local address."""
    fixed = {"host": "127.0.0.1", "port": 0, "http_port": 0, "log_format": "json"}
    return Settings(**{**fixed, "message_spacing_ms": 0, **changes})


class HandClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def live_server(
    artifact: Path,
    runner: ScriptedRunner,
    clock: Callable[[], float] = time.monotonic,
    make_tracer: MakeTracer = choose_tracer,
    **changes: Any,
) -> AsyncIterator[Live]:
    """A loaded server of one model named `tiny`, stopped at the end."""
    chosen = settings(model=(f"tiny={artifact}",), **changes)
    server = Server(chosen, ScriptedLoader(lambda _: runner), clock, make_tracer)
    ports = await server.start()
    await server.load()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        try:
            yield Live(server, ports, channel, pb_grpc.CompletionServiceStub(channel), runner)
        finally:
            runner.allow()
            await server.stop(drain_seconds=5)


@contextmanager
def hand_run_server(artifact: Path) -> Iterator[tuple[asyncio.Runner, Live]]:
    """A live server on a loop that a test runs by hand: examples of hypothesis share it."""
    with asyncio.Runner() as runner:
        context = live_server(artifact, ScriptedRunner())
        live = runner.run(context.__aenter__())
        yield runner, live
        runner.run(context.__aexit__(None, None, None))


async def answered_with(method: Callable[..., Any], request: Any) -> grpc.StatusCode:
    """The status of a call."""
    try:
        await method(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def answer(call: "grpc.aio.UnaryUnaryCall[Any, pb.CreateCompletionResponse]") -> str:
    """The text that a call answers with, or the reason of its error."""
    try:
        return (await call).choices[0].text
    except grpc.aio.AioRpcError as error:
        return read_error(error).reason


async def rest(
    call: "grpc.aio.UnaryStreamCall[Any, pb.StreamCompletionResponse]",
) -> list[pb.StreamCompletionResponse]:
    """The messages that a stream has still to give."""
    messages = []
    while isinstance(message := await call.read(), pb.StreamCompletionResponse):
        messages.append(message)
    return messages


def health_stub(channel: grpc.aio.Channel) -> Any:
    """grpc.health.v1.Health; its type stubs know no methods."""
    return health_pb2_grpc.HealthStub(channel)


@dataclasses.dataclass
class Refusal:
    """An error as a client reads it."""

    code: grpc.StatusCode
    message: str
    info: error_details_pb2.ErrorInfo
    violations: dict[str, str]
    retry_seconds: float | None

    @property
    def reason(self) -> str:
        return str(self.info.reason)


def read_error(error: grpc.aio.AioRpcError) -> Refusal:
    """Unpacks the google.rpc details of an error."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    found: dict[str, Any] = {}
    for kind in ("ErrorInfo", "BadRequest", "RetryInfo", "RequestInfo"):
        message = getattr(error_details_pb2, kind)()
        if any(detail.Unpack(message) for detail in status.details):
            found[kind] = message
    assert found["ErrorInfo"].domain == "cadenza"
    violations = found["BadRequest"].field_violations if "BadRequest" in found else ()
    delay = found["RetryInfo"].retry_delay if "RetryInfo" in found else None
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        info=found["ErrorInfo"],
        violations={violation.field: violation.description for violation in violations},
        retry_seconds=None if delay is None else delay.ToNanoseconds() / 1e9,
    )


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
