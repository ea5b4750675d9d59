"""Several devices behind one queue: each has an engine of its own, and one that breaks leaves the others."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import grpc
from tests.server.live import HandClock, Live, answer, create, read_error, rest, settings, stream
from tests.server.scripted_runner import LIMITS, ScriptedRunner

from cadenza.server.app import Server
from cadenza.server.config import Settings
from cadenza.server.repository import Artifact
from cadenza.server.runner.loading import OnCompile
from cadenza.v1 import completion_pb2_grpc as pb_grpc


class SeveralRunners:
    """A loader of these runners."""

    def __init__(self, runners: Sequence[ScriptedRunner]) -> None:
        self._runners = runners

    def __call__(self, settings: Settings, on_compile: OnCompile) -> Self:
        return self

    def load(self, artifact: Artifact) -> Sequence[ScriptedRunner]:
        return self._runners

    def required_bytes(self, artifact: Artifact) -> int:
        return 0

    def free_bytes(self) -> int:
        return 1

    def precision(self, artifact: Artifact) -> str:
        return artifact.cpu_precision


@dataclasses.dataclass
class Several:
    """A live server of several runners; `live.runner` is the first."""

    live: Live
    runners: list[ScriptedRunner]

    def hold(self) -> None:
        for runner in self.runners:
            runner.hold()

    def allow(self, steps: float = float("inf")) -> None:
        for runner in self.runners:
            runner.allow(steps)


@asynccontextmanager
async def several(
    artifact: Path, count: int = 2, clock: Any = time.monotonic, **changes: Any
) -> AsyncIterator[Several]:
    runners = [ScriptedRunner() for _ in range(count)]
    server = Server(settings(model=(f"tiny={artifact}",), **changes), SeveralRunners(runners), clock)
    ports = await server.start()
    await server.load()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        live = Live(server, ports, channel, pb_grpc.CompletionServiceStub(channel), runners[0])
        both = Several(live, runners)
        try:
            yield both
        finally:
            both.allow()
            await server.stop(drain_seconds=5)


def answered(runner: ScriptedRunner) -> set[str]:
    """The first letters of the prompts that a runner has seen."""
    return {chr(one.token_ids[0]) for one in runner.slices if one.start == 0}


async def test_requests_spread_evenly_and_every_answer_is_right(artifact: Path) -> None:
    async with several(artifact, 3) as both:
        both.hold()
        waiting = [asyncio.ensure_future(both.live.text(prompt, max_tokens=3)) for prompt in "abcdef"]
        await both.live.until("cadenza_num_requests_waiting", 6)
        both.allow()
        assert await asyncio.gather(*waiting) == ["bcd", "cde", "def", "efg", "fgh", "ghi"]
        assert [len(answered(runner)) for runner in both.runners] == [2, 2, 2]
        assert set.union(*map(answered, both.runners)) == set("abcdef")


async def test_gauges_count_all_engines_together(artifact: Path) -> None:
    async with several(artifact) as both:
        both.hold()
        calls = [both.live.stub.StreamCompletion(stream(prompt, max_tokens=9)) for prompt in "ab"]
        await both.live.until("cadenza_num_requests_waiting", 2)
        both.allow(1)
        await both.live.until("cadenza_num_requests_running", 2)
        assert await both.live.metric("cadenza_kv_cache_usage_ratio") == 2 / (2 * LIMITS.num_blocks)
        for call in calls:
            call.cancel()


async def test_one_queue_bounds_all_engines(artifact: Path) -> None:
    async with several(artifact, max_queue_requests=2) as both:
        both.hold()
        waiting = [asyncio.ensure_future(both.live.text("k")) for _ in range(2)]
        await both.live.until("cadenza_num_requests_waiting", 2)
        assert await answer(both.live.stub.CreateCompletion(create("q"))) == "QUEUE_FULL"
        both.allow()
        assert await asyncio.gather(*waiting) == ["lmnop"] * 2


async def test_prompts_that_begin_alike_go_to_one_engine_where_all_are_free(artifact: Path) -> None:
    async with several(artifact) as both:
        for _ in range(4):
            await both.live.text("kkkkkkkkk", max_tokens=1)
        assert sorted(len(runner.batch_sizes) for runner in both.runners) == [0, 4]


async def test_a_broken_engine_fails_its_own_streams_and_the_others_go_on(artifact: Path) -> None:
    async with several(artifact) as both:
        live = both.live
        both.hold()
        calls = [live.stub.StreamCompletion(stream(prompt, max_tokens=9)) for prompt in "ak"]
        await live.until("cadenza_num_requests_waiting", 2)
        for runner in both.runners:
            await asyncio.to_thread(runner.wait_for_step, 1)
        both.runners[0].fail()
        both.runners[1].allow()
        texts = {"a": "bcdefghij", "k": "lmnopqrst"} | dict.fromkeys(
            answered(both.runners[0]), "ENGINE_FAILED"
        )
        assert [await ending(call) for call in calls] == [texts["a"], texts["k"]]
        assert "ENGINE_FAILED" in texts.values()
        assert await live.metric("cadenza_engine_failures_total") == 1
        assert (await live.get("/readyz"))[0] == 200
        assert await asyncio.gather(*(live.text("a", max_tokens=3) for _ in range(6))) == ["bcd"] * 6
        assert not live.server.engine_failed.is_set()
        assert await live.metric("cadenza_num_requests_running") == 0


async def ending(call: Any) -> str:
    """The text of a stream, or the reason of its error."""
    try:
        return "".join(choice.text for message in await rest(call) for choice in message.choices)
    except grpc.aio.AioRpcError as error:
        return read_error(error).reason


async def test_when_the_last_engine_breaks_the_model_has_failed(artifact: Path) -> None:
    async with several(artifact) as both:
        for runner in both.runners:
            runner.fail()
        for _ in both.runners:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await both.live.text("a")
        async with asyncio.timeout(10):
            await both.live.server.engine_failed.wait()
        assert await answer(both.live.stub.CreateCompletion(create("a"))) == "ENGINE_FAILED"


async def test_a_step_that_does_not_end_on_any_engine_is_seen(artifact: Path) -> None:
    clock = HandClock()
    async with several(artifact, clock=clock, watchdog_seconds=0.05) as both:
        both.hold()
        calls = [asyncio.ensure_future(both.live.text(prompt)) for prompt in "ak"]
        for runner in both.runners:
            await asyncio.to_thread(runner.wait_for_step, 1)
        both.runners[0].allow()
        clock.now += 0.06
        await both.live.until("cadenza_engine_stalled", 1)
        both.allow()
        assert await asyncio.gather(*calls) == ["bcdef", "lmnop"]
        await both.live.until("cadenza_engine_stalled", 0)


async def test_a_drain_waits_for_all_engines(artifact: Path) -> None:
    async with several(artifact) as both:
        both.hold()
        waiting = [asyncio.ensure_future(both.live.text(prompt)) for prompt in "ak"]
        await both.live.until("cadenza_num_requests_waiting", 2)
        stopping = asyncio.ensure_future(both.live.server.stop(drain_seconds=20))
        both.allow()
        assert await asyncio.gather(*waiting) == ["bcdef", "lmnop"]
        assert await stopping
        assert all(runner.closed for runner in both.runners)
