"""Versions that take each other's place in a server process, one after the other, with streams on each."""

import asyncio
from pathlib import Path

import grpc
from deploy.demo.serving import serve
from tests.bench.swap import Bench, Versions
from tests.bench.workload import prompts
from tests.checked_streams import CheckedStreams, TokenIds, Work, answers

from cadenza.v1 import completion_pb2_grpc as pb_grpc

STREAMS = 8
MOST_GROWTH = 1.10
"""Of what is resident, from one version to another of the same kind."""
_READY_SECONDS = 250


def swap_all(versions: Versions, root: Path, last: int) -> tuple[dict[int, int], dict[int, list[TokenIds]]]:
    """Swaps from version 1 to the last.

    Returns the bytes that are resident under the load of each version, the server's and its processes', and
    what each says in the calm.
    """
    folder = root / versions.model
    versions.put(1, folder)
    with serve({}, "--models", str(root), *versions.flags, timeout=_READY_SECONDS) as server:
        bench = Bench(server, versions, folder)
        said = asyncio.run(_swap_all(bench, last))
        assert server.terminate() == 0
    return bench.resident, said


async def _swap_all(bench: Bench, last: int) -> dict[int, list[TokenIds]]:
    model = bench.versions.model
    work = Work(prompts(STREAMS, 48, bench.versions.vocabulary), 16)
    said: dict[int, list[TokenIds]] = {}
    async with grpc.aio.insecure_channel(bench.server.target) as channel:
        stub = pb_grpc.CompletionServiceStub(channel)
        for version in range(1, last + 1):
            if version > 1:
                await bench.swap(version)
            said[version] = await answers(stub, model, work)
            await _stream(CheckedStreams(stub, model, work, said.__getitem__), version)
            bench.measure(version)
    return said


async def _stream(traffic: CheckedStreams, version: int) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(traffic.run(STREAMS, stop))
    await traffic.until_whole(version, 2 * STREAMS)
    stop.set()
    await running
    assert traffic.failures == []
