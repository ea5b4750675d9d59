"""Triton's own clients, in their own environment, against the real model: `make triton`."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy.demo.models import CACHE
from deploy.demo.serving import ServerProcess, serve

from cadenza.client import Client

pytestmark = pytest.mark.real_model

ROOT = Path(__file__).parents[2]
PYTHON = CACHE / "triton-venv" / "bin" / "python"
MODEL = "smollm2-135m"
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "kserve.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def server(real_int8: Path) -> Iterator[ServerProcess]:
    with serve({MODEL: real_int8}, "--cache-dir", str(CACHE / "server")) as process:
        yield process


@pytest.fixture(scope="module")
def seen(server: ServerProcess) -> dict[str, Any]:
    """What the clients saw."""
    found: dict[str, Any] = json.loads(_run(str(ROOT / "tests/triton/program.py"), server.target, MODEL))
    return found


@pytest.fixture(scope="module")
def expected(server: ServerProcess, seen: dict[str, Any]) -> dict[str, str]:
    """The same completions by the SDK."""
    prompt = seen["prompt"]
    with Client(server.target) as client:
        return {
            "greedy": client.complete(prompt, max_tokens=8, temperature=0).text,
            "seeded": client.complete(prompt, max_tokens=8, temperature=0.8, top_k=40, seed=7).text,
        }


def _run(*arguments: str) -> str:
    assert PYTHON.exists(), "run `make triton`"
    done = subprocess.run([str(PYTHON), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_reads_what_server_and_model_are(seen: dict[str, Any]) -> None:
    described = seen["described"]
    assert (described["live"], described["ready"], described["server"]) == (True, True, "cadenza")
    assert described["model_ready"] == [True, False]
    assert {"text_input", "stream", "sampling_parameters"} <= set(described["inputs"])
    assert "text_output" in described["outputs"]


def test_the_client_infers(seen: dict[str, Any], expected: dict[str, str]) -> None:
    inferred = seen["inferred"]
    assert (inferred["text"], inferred["seeded"]) == (expected["greedy"], expected["seeded"])
    assert inferred["with_prompt"] == seen["prompt"] + expected["greedy"]
    assert (inferred["id"], inferred["finish_reason"]) == ("one", "length")
    assert inferred["num_input_tokens"] == [4]


def test_the_client_reads_an_error(seen: dict[str, Any]) -> None:
    status, _, message = seen["refused"].partition(": ")
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert message.startswith("sampling_parameters.temperature is -1; it must be from 0 to 100")


@pytest.mark.parametrize("way", ["streamed", "streamed_by_asyncio"])
def test_the_client_streams(seen: dict[str, Any], expected: dict[str, str], way: str) -> None:
    streamed = seen[way]
    for name in ("greedy", "seeded"):
        assert "".join(streamed[name]) == expected[name]
        assert len(streamed[name]) > 1
    assert sorted(streamed["final"]) == ["greedy", "seeded"]


def test_an_error_of_one_request_reaches_the_streams_callback(seen: dict[str, Any]) -> None:
    (error,) = seen["streamed"]["errors"]
    assert error.startswith("sampling_parameters.temperature is -1")


def test_the_program_of_the_docs_runs(
    server: ServerProcess, seen: dict[str, Any], expected: dict[str, str]
) -> None:
    printed = _run("-c", EXAMPLE.replace("localhost:8500", server.target))
    whole = f"{seen['prompt']}{expected['greedy']}\n"
    assert printed.startswith(whole)
    assert printed.removeprefix(whole).strip()
