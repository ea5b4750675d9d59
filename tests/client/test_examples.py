"""The examples run as they are, each in a process of its own, and are type-checked as a user would."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.certificates import Authority
from tests.client.scripted import ScriptedServer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "client" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
ANSWER = "The capital is Paris."


def run_example(name: str, *arguments: object, server: ScriptedServer) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / name, *map(str, arguments)],
        env={**os.environ, "CADENZA_TARGET": server.target},
        capture_output=True,
        input="",
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    "name",
    ["async_stream.py", "chat.py", "complete.py", "interceptor.py", "logprobs.py", "stream.py", "threads.py"],
)
def test_the_example_runs(server: ScriptedServer, name: str) -> None:
    assert ANSWER in run_example(name, server=server)
    assert server.requests
    if name == "interceptor.py":
        assert server.metadata[0]["x-team"] == "search"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[ScriptedServer, Path, Path]]:
    """A server with TLS and a token, and the files that clients need."""
    authority = Authority(tmp_path / "pki")
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    server = ScriptedServer()
    server.token = "s3cret"
    server.start(credentials=authority.server_credentials(authority.issue("localhost")))
    yield server, authority.ca.cert, token
    server.stop()


def test_the_example_of_a_secure_connection_runs(secure: tuple[ScriptedServer, Path, Path]) -> None:
    server, ca_file, token_file = secure
    assert ANSWER in run_example("secure.py", ca_file, token_file, server=server)


def test_no_example_is_left_out() -> None:
    assert len(EXAMPLES) == 8


TYPED = """
import asyncio
from typing import assert_type

from cadenza.client import (
    AsyncClient, AsyncStream, Client, Completion, CompletionChunk, FinishReason, Message, Model,
    ServingStatus, Stream, Timing, TokenCount, Usage,
)

with Client("h:1", timeout=5, tls=True, token=lambda: "t", max_retries=1) as client:
    assert_type(client, Client)
    assert_type(client.with_options(temperature=0), Client)
    assert_type(client.complete("x", temperature=0, stop=["a"], seed=1), Completion)
    assert_type(client.complete("x").finish_reason, FinishReason | None)
    assert_type(client.chat([Message("user", "x"), {"role": "user", "content": "y"}]).usage, Usage)
    assert_type(client.count_tokens([1, 2]), TokenCount)
    assert_type(client.models(), tuple[Model, ...])
    assert_type(client.model("m").max_context, int)
    assert_type(client.health(), ServingStatus)
    with client.stream("x") as stream:
        assert_type(stream, Stream)
        for chunk in stream:
            assert_type(chunk, CompletionChunk)
        for text in stream.text():
            assert_type(text, str)
        assert_type(stream.timing, Timing | None)
    client.complete("x", temprature=0)  # type: ignore[call-arg]
    client.complete("x", temperature="hot")  # type: ignore[arg-type]
    client.complete(5)  # type: ignore[arg-type]
    client.models(temperature=0)  # type: ignore[call-arg]
    Client(timeout="soon")  # type: ignore[arg-type]
    client.complete("x").text = "y"  # type: ignore[misc]


async def main() -> None:
    async with AsyncClient() as twin:
        assert_type(await twin.complete("x", logprobs=3), Completion)
        assert_type(twin.stream_chat("x"), AsyncStream)
        async for text in twin.stream("x").text():
            assert_type(text, str)
        assert_type(await twin.stream("x").collect(), Completion)
        twin.complete("x", n="two")  # type: ignore[arg-type, unused-coroutine]


asyncio.run(main())
"""


def test_the_types_that_users_see_are_right_and_their_mistakes_are_found(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", os.devnull,
            "--cache-dir", ROOT / ".cache" / "mypy-users", program, *EXAMPLES,
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
