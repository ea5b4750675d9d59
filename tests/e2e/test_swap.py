"""Real versions of the real model take each other's place in a server process, and memory comes back."""

import asyncio

import grpc
import pytest
from deploy.demo.serving import serve
from tests.bench.swap import FLAGS, MODEL, Bench, put
from tests.bench.workload import prompts
from tests.checked_streams import CheckedStreams, Work, answers

from cadenza.v1 import completion_pb2_grpc as pb_grpc

STREAMS = 8
WORK = Work(prompts(STREAMS, 48, 49_152), 16)
MOST_GROWTH = 1.10


@pytest.mark.usefixtures("real_int8", "real_float32")
def test_memory_is_given_back_and_each_version_says_what_it_said_before(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("models")
    put(1, root / MODEL)
    with serve({}, "--models", str(root), *FLAGS) as server:
        bench = Bench(server, root / MODEL)
        asyncio.run(_swap_there_and_back(bench))
        assert bench.resident[3] <= MOST_GROWTH * bench.resident[1]
        assert server.terminate() == 0


async def _swap_there_and_back(bench: Bench) -> None:
    """Version 1 is int8, 2 is float32, 3 is 1 again."""
    async with grpc.aio.insecure_channel(bench.server.target) as channel:
        stub = pb_grpc.CompletionServiceStub(channel)
        said = {1: await answers(stub, MODEL, WORK)}
        for version in (1, 2, 3):
            if version > 1:
                await bench.swap(version)
                said[version] = await answers(stub, MODEL, WORK)
            traffic = CheckedStreams(stub, MODEL, WORK, said.__getitem__)
            stop = asyncio.Event()
            running = asyncio.create_task(traffic.run(STREAMS, stop))
            await traffic.until_whole(version, 2 * STREAMS)
            stop.set()
            await running
            assert traffic.failures == []
            bench.measure(version)
        assert said[1] == said[3] != said[2]
