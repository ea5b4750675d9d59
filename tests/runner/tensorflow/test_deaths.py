"""A server whose device's process dies: while it loads, and while it serves."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess, serve

from cadenza.client import Client, InternalError

FLAGS = (
    "--runner", "tensorflow", "--device", "cpu", "--kv-cache-gib", "0.01",
    "--max-sequences", "2", "--max-step-tokens", "16",
)  # fmt: skip
WAIT_SECONDS = 200
pytestmark = pytest.mark.timeout(600)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def said(server: ServerProcess, event: str) -> list[dict[str, object]]:
    return [line for line in list(server.log) if line["event"] == event]


def test_a_version_whose_process_dies_as_it_loads_is_refused_and_the_old_one_serves(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_artifact, tmp_path / "tiny/1")
    with (
        serve(
            {}, "--models", str(tmp_path), "--models-poll-seconds", "0.1", *FLAGS, timeout=WAIT_SECONDS
        ) as server,
        Client(server.target) as client,
    ):
        before = client.complete("The quick", max_tokens=8, temperature=0).choices[0].text
        (old,) = server.children
        shutil.copytree(tiny_artifact, tmp_path / "tiny/2")
        wait_until(lambda: len(server.children) == 2)
        (new,) = set(server.children) - {old}
        os.kill(new, signal.SIGKILL)
        wait_until(lambda: bool(said(server, "version_refused")))
        (refusal,) = said(server, "version_refused")
        assert (refusal["version"], refusal["serving"]) == (2, [1])
        assert f"the device's process {new} was ended by SIGKILL" in str(refusal["error"])
        assert client.complete("The quick", max_tokens=8, temperature=0).choices[0].text == before
        assert server.children == [old]
        assert server.terminate() == 0


def test_where_the_process_of_the_only_device_dies_the_server_ends_with_3(tiny_artifact: Path) -> None:
    with (
        serve({"tiny": tiny_artifact}, *FLAGS, timeout=WAIT_SECONDS) as server,
        Client(server.target, max_retries=0) as client,
    ):
        (process,) = server.children
        maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (server.process.pid, process)}
        assert "/tensorflow/" not in maps[server.process.pid]
        assert "/tensorflow/" in maps[process]
        assert "/grpc/" not in maps[process]
        os.kill(process, signal.SIGKILL)
        with pytest.raises(InternalError) as raised:
            client.complete("The quick", max_tokens=8)
        assert raised.value.reason == "ENGINE_FAILED"
        assert server.process.wait(WAIT_SECONDS) == 3
        assert server.children == []
    (failure,) = said(server, "engine_failed")
    assert f"process {process} was ended by SIGKILL" in str(failure["exception"])
