"""A server whose answers wait for the test, on a real socket in its loop; a clock that the test moves."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health, health_pb2_grpc

from cadenza.client._settings import Settings, settings_from
from cadenza.load._connection import Sender, connected
from cadenza.load._counts import LiveCounts
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
MODEL = pb.Model(name="tiny", vocabulary_size=300, max_context=64)


class HandClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    async def sleep_until(self, at: float) -> None:
        if at <= self._now:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (at, next(self._order), woken))
        await woken

    async def slept_on(self, by: int) -> None:
        """Waits until so many tasks sleep."""
        async with asyncio.timeout(20):
            while len(self._sleepers) < by:  # noqa: ASYNC110 - others add to it
                await asyncio.sleep(0)

    def move_to(self, at: float) -> None:
        """Wakes everyone whose time has come; all of them see the new time."""
        self._now = at
        while self._sleepers and self._sleepers[0][0] <= at:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)


class HeldServer(pb_grpc.CompletionServiceServicer):
    """Every stream sends `messages`, each with so many tokens, once it may go on."""

    def __init__(self, *messages: int) -> None:
        self.messages = messages or (1, 1)
        self.requests: list[pb.StreamCompletionRequest] = []
        self.most_at_once = 0
        self._running = 0
        self._changed = asyncio.Condition()
        self._free = False
        self.port = 0

    async def StreamCompletion(  # noqa: N802 - the wire's name
        self, request: pb.StreamCompletionRequest, context: Context
    ) -> AsyncIterator[pb.StreamCompletionResponse]:
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        async with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._free)
        for tokens in self.messages:
            yield pb.StreamCompletionResponse(choices=[pb.Choice(token_ids=range(tokens))])
        self._running -= 1
        yield pb.StreamCompletionResponse(
            usage=pb.Usage(prompt_tokens=7, cached_prompt_tokens=2, completion_tokens=sum(self.messages)),
            timing=pb.Timing(queue=Duration(nanos=3_000_000)),
        )

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: Context
    ) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=MODEL)

    async def CreateCompletion(  # noqa: N802
        self, request: pb.CreateCompletionRequest, context: Context
    ) -> pb.CreateCompletionResponse:
        raise NotImplementedError

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        raise NotImplementedError

    async def CountTokens(  # noqa: N802
        self, request: pb.CountTokensRequest, context: Context
    ) -> pb.CountTokensResponse:
        raise NotImplementedError

    async def received(self, count: int) -> None:
        """Waits until so many requests have come."""
        async with self._changed, asyncio.timeout(20):
            await self._changed.wait_for(lambda: len(self.requests) >= count)

    async def release(self) -> None:
        """Nothing waits from now on."""
        async with self._changed:
            self._free = True
            self._changed.notify_all()

    @property
    def settings(self) -> Settings:
        """Those of a client of this server."""
        return settings_from(f"localhost:{self.port}", {}, {})


@asynccontextmanager
async def held_server(*messages: int) -> AsyncIterator[HeldServer]:
    """Serves on a free port."""
    servicer = HeldServer(*messages)
    server = grpc.aio.server()
    pb_grpc.add_CompletionServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call, unused-ignore]
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    servicer.port = server.add_insecure_port("localhost:0")
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(grace=None)


@asynccontextmanager
async def sender_to(server: HeldServer, clock: HandClock) -> AsyncIterator[Sender]:
    """Sends to the server by this clock."""
    async with connected(server.settings) as stubs:
        yield Sender(server.settings, stubs, clock, LiveCounts().slots[0])
