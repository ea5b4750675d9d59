"""Pods come and go under load, by the signals and in the order of Kubernetes, and no client notices."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.deploy.envoy_proxy import envoy
from tests.deploy.replicas import Load, Replica, load
from tests.server.artifacts import write_artifact

REPLICAS = 3
CONCURRENCY = 6
STREAMS = 2 * CONCURRENCY
"""Complete streams to see between two changes: the load has met the state that they left."""


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "models" / "tiny" / "7")


@contextlib.asynccontextmanager
async def started(*replicas: Replica) -> AsyncIterator[list[Replica]]:
    """The replicas that run; whatever the block leaves in the list is ended."""
    running = list(replicas)
    try:
        yield running
    finally:
        for replica in running:
            await replica.kill()


def nobody_noticed(found: Load) -> None:
    assert found.failed == []
    assert found.truncated == []


async def test_rolling_restart_behind_envoy_fails_no_request_and_cuts_no_stream(
    artifact: Path, tmp_path: Path
) -> None:
    old = await asyncio.gather(*(Replica.started(artifact, "old") for _ in range(REPLICAS)))
    async with started(*old) as running, envoy(tmp_path) as proxy:
        await proxy.route_to([replica.port for replica in running])
        async with load(f"127.0.0.1:{proxy.ports['calls']}", CONCURRENCY, max_retries=0) as found:
            await found.until("old", STREAMS)
            for leaving in old:
                running.append(await Replica.started(artifact, "new"))
                await proxy.route_to([one.port for one in running if one is not leaving])
                assert await leaving.terminate() == 0
                running.remove(leaving)
                await found.until("new", STREAMS)
        nobody_noticed(found)


async def test_refusals_of_draining_servers_go_to_another_through_envoy(
    artifact: Path, tmp_path: Path
) -> None:
    """SIGTERM may reach a pod before its endpoint is taken out."""
    old = await asyncio.gather(*(Replica.started(artifact, "old") for _ in range(2)))
    async with started(*old) as running, envoy(tmp_path) as proxy:
        await proxy.route_to([replica.port for replica in running])
        async with load(f"127.0.0.1:{proxy.ports['calls']}", CONCURRENCY, max_retries=0) as found:
            await found.until("old", STREAMS)
            assert await old[0].terminate() == 0
            running.remove(old[0])
            await found.until("old", STREAMS)
        nobody_noticed(found)


async def test_rolling_restart_behind_the_sdks_round_robin_fails_no_request_and_cuts_no_stream(
    artifact: Path,
) -> None:
    """Every pod keeps its address and is gone for a while."""
    old = await asyncio.gather(*(Replica.started(artifact, "old") for _ in range(REPLICAS)))
    addresses = ",".join(f"127.0.0.1:{replica.port}" for replica in old)
    async with started(*old) as running, load(f"ipv4:{addresses}", CONCURRENCY, max_retries=4) as found:
        await found.until("old", STREAMS)
        for leaving in old:
            assert await leaving.terminate() == 0
            running.remove(leaving)
            running.append(await Replica.started(artifact, "new", leaving.port))
            await found.until("new", STREAMS)
    nobody_noticed(found)


async def test_new_replicas_behind_a_service_take_traffic_when_connections_are_of_age(
    artifact: Path, tmp_path: Path
) -> None:
    """A Service balances connections: without an age, clients would stay with the replica they have."""
    first = await Replica.started(artifact, "old", max_connection_seconds=1)
    async with started(first) as running, envoy(tmp_path) as proxy:
        await proxy.route_to([first.port])
        async with load(f"127.0.0.1:{proxy.ports['connections']}", CONCURRENCY, max_retries=0) as found:
            await found.until("old", STREAMS)
            running.append(await Replica.started(artifact, "new", max_connection_seconds=1))
            await proxy.route_to([one.port for one in running])
            await found.until("new", STREAMS)
        nobody_noticed(found)
