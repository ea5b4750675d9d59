"""Real versions take each other's place in a server process, and memory comes back."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from deploy.demo.serving import serve
from tests.bench.swap import SMOLLM2, Bench, Versions, small_on_tensorflow
from tests.bench.workload import prompts
from tests.checked_streams import CheckedStreams, TokenIds, Work, answers

from cadenza.v1 import completion_pb2_grpc as pb_grpc

STREAMS = 8
MOST_GROWTH = 1.10


@pytest.mark.usefixtures("real_int8", "real_float32")
def test_memory_is_given_back_and_each_version_says_what_it_said_before(tmp_path: Path) -> None:
    resident = swaps(SMOLLM2, tmp_path, last_version=3)
    assert resident[3] <= MOST_GROWTH * resident[1]


def test_memory_is_given_back_where_tensorflow_computes(tmp_path: Path) -> None:
    versions = small_on_tensorflow(tmp_path / "exports")
    resident = swaps(versions, tmp_path / "models", last_version=4)
    for version in (2, 3, 4):
        assert resident[version] <= MOST_GROWTH * resident[1], resident


def swaps(versions: Versions, root: Path, *, last_version: int) -> dict[int, int]:
    """Bytes that are resident under the load of each version, the server's and its processes'."""
    folder = root / versions.model
    versions.put(1, folder)
    with serve({}, "--models", str(root), *versions.flags) as server:
        bench = Bench(server, versions, folder)
        asyncio.run(_swap_one_after_the_other(bench, last_version))
        assert server.terminate() == 0
    return bench.resident


async def _swap_one_after_the_other(bench: Bench, last_version: int) -> None:
    versions = bench.versions
    work = Work(prompts(STREAMS, 48, versions.vocabulary), 16)
    said: dict[int, Sequence[TokenIds]] = {}
    async with grpc.aio.insecure_channel(bench.server.target) as channel:
        stub = pb_grpc.CompletionServiceStub(channel)
        for version in range(1, last_version + 1):
            if version > 1:
                await bench.swap(version)
            said[version] = await answers(stub, versions.model, work)
            traffic = CheckedStreams(stub, versions.model, work, said.__getitem__)
            stop = asyncio.Event()
            running = asyncio.create_task(traffic.run(STREAMS, stop))
            await traffic.until_whole(version, 2 * STREAMS)
            stop.set()
            await running
            assert traffic.failures == []
            bench.measure(version)
    assert said[1] == said[3] != said[2]
