"""A live server on a folder of models whose versions count in different strides.

Version v continues a letter by the letter v places on, from z back to a: after "a" version 1 says "bcd...",
version 2 "ceg...". So a text tells which version each of its letters came from.
"""

import asyncio
import dataclasses
import shutil
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tests.server.artifacts import write_artifact
from tests.server.live import Live, create, settings
from tests.server.scripted_loader import ScriptedLoader
from tests.server.scripted_runner import ScriptedRunner

from cadenza.server.app import Server
from cadenza.server.repository import Artifact
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc

START = pb.MODEL_VERSION_STATE_START
AVAILABLE = pb.MODEL_VERSION_STATE_AVAILABLE
UNLOADING = pb.MODEL_VERSION_STATE_UNLOADING
END = pb.MODEL_VERSION_STATE_END


def continued(letter: str, version: int, tokens: int) -> str:
    """What a version says after a letter."""
    start = string.ascii_lowercase.index(letter)
    return "".join(string.ascii_lowercase[(start + version * (i + 1)) % 26] for i in range(tokens))


@dataclasses.dataclass
class Folder(Live):
    """The live server; `runner` is not used, `runners` are those that were made."""

    models: Path
    loader: ScriptedLoader
    runners: dict[tuple[str, int], ScriptedRunner]

    def add(self, version: int, name: str = "tiny") -> Path:
        """Puts a whole version into the folder."""
        return write_artifact(self.models / name / str(version))

    def remove(self, version: int, name: str = "tiny") -> None:
        shutil.rmtree(self.models / name / str(version))

    async def look(self) -> None:
        """Has the server look at its models, and waits until what it found is served or refused."""
        await self.server.look_for_models()

    async def complete(self, model: str = "tiny", tokens: int = 5) -> str:
        """What a model says after "a"."""
        request = create("a", max_tokens=tokens)
        request.model = model
        return (await self.stub.CreateCompletion(request)).choices[0].text

    async def states(self, name: str = "tiny") -> dict[int, Any]:
        """Where the versions of a model stand."""
        model = (await self.stub.GetModel(pb.GetModelRequest(model=name))).model
        return {version.version: version.state for version in model.versions}

    async def until_state(self, version: int, state: Any) -> None:
        """Asks until a version stands there; the server works between the questions."""
        async with asyncio.timeout(10):
            while (await self.states()).get(version) != state:  # noqa: ASYNC110 only the server can be asked
                await asyncio.sleep(0)


@asynccontextmanager
async def folder_server(
    models: Path, *, load: bool = True, step_seconds: float = 0.0, **changes: Any
) -> AsyncIterator[Folder]:
    """A server of a folder of models, which looks when it is told to."""
    runners: dict[tuple[str, int], ScriptedRunner] = {}

    def make(artifact: Artifact) -> ScriptedRunner:
        runner = runners[artifact.name, artifact.version] = _runner(artifact.version, step_seconds)
        return runner

    loader = ScriptedLoader(make)
    server = Server(settings(**{"models": models, "models_poll_seconds": 3600, **changes}), loader)
    try:
        ports = await server.start()
        if load:
            await server.load()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            stub = pb_grpc.CompletionServiceStub(channel)
            yield Folder(server, ports, channel, stub, ScriptedRunner(), models, loader, runners)
    finally:
        for runner in runners.values():
            runner.allow()
        await server.stop(drain_seconds=5)


def _runner(version: int, step_seconds: float) -> ScriptedRunner:
    letters = {ord(letter): ord(continued(letter, version, 1)) for letter in string.ascii_lowercase}
    return ScriptedRunner(letters, step_seconds=step_seconds)
