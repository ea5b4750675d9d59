"""Replicas as processes, and a load on them that notices every failure and every stream cut short."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from cadenza.client import AsyncClient, CadenzaError

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60
PROMPT, LENGTH, ANSWER = "a", 12, "bcdefghijklm"


class Replica:
    """One server process; ready when `started` returns."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port
        self._reader = asyncio.create_task(self._drain_log())

    @classmethod
    async def started(cls, artifact: Path, name: str, port: int = 0, **settings: object) -> "Replica":
        """`name` is the model's, by which answers tell who gave them.

        Settings are environment variables of the server, by their names there without the prefix.
        """
        names = {f"CADENZA_SERVER_{name.upper()}": str(value) for name, value in settings.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.deploy.replica", str(artifact), name, str(port),
            cwd=ROOT, env={**os.environ, **names}, stderr=subprocess.PIPE,
        )  # fmt: skip
        true_port = 0
        assert process.stderr is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while line := await process.stderr.readline():
                entry = json.loads(line)
                true_port = entry.get("grpc_port", true_port)
                if entry["event"] == "ready":
                    return cls(process, true_port)
        raise AssertionError("the replica ended before it was ready")

    async def terminate(self) -> int:
        """SIGTERM, as the kubelet sends it; gives the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await self._ended()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._ended()

    async def _ended(self) -> int:
        code = await asyncio.wait_for(self._process.wait(), WAIT_SECONDS)
        await self._reader
        return code

    async def _drain_log(self) -> None:
        """Nobody reads it, but the process must not wait for a reader."""
        assert self._process.stderr is not None
        while await self._process.stderr.read(65536):
            pass


@dataclasses.dataclass
class Load:
    """What the streams of a load have given so far."""

    whole: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Complete streams by the model that gave them."""
    truncated: list[str] = dataclasses.field(default_factory=list)
    failed: list[CadenzaError] = dataclasses.field(default_factory=list)
    _news: asyncio.Condition = dataclasses.field(default_factory=asyncio.Condition)

    async def until(self, model: str, streams: int) -> None:
        """Waits for so many more complete streams of a model."""
        goal = self.whole[model] + streams
        async with asyncio.timeout(WAIT_SECONDS), self._news:
            await self._news.wait_for(lambda: self.whole[model] >= goal)

    async def one_stream(self, client: AsyncClient) -> None:
        try:
            async with client.stream(PROMPT, max_tokens=LENGTH, temperature=0) as stream:
                answer = await stream.collect()
        except CadenzaError as error:
            self.failed.append(error)
            return
        if answer.text != ANSWER:
            self.truncated.append(answer.text)
            return
        async with self._news:
            self.whole[answer.model] += 1
            self._news.notify_all()


@contextlib.asynccontextmanager
async def load(target: str, concurrency: int, max_retries: int) -> AsyncIterator[Load]:
    """Streams without a pause until the block ends, then lets the last ones finish."""
    found, stop = Load(), asyncio.Event()

    async def worker(client: AsyncClient) -> None:
        while not stop.is_set():
            await found.one_stream(client)

    async with (
        AsyncClient(target, max_retries=max_retries, timeout=30) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(concurrency):
            tasks.create_task(worker(client))
        try:
            yield found
        finally:
            stop.set()
