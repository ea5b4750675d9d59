"""A server process on the TensorFlow runner, over real gRPC: what it compiles, and what it says of itself."""

import urllib.request
from pathlib import Path
from typing import Any

import pytest
from deploy.demo.serving import ServerProcess, serve

from cadenza.client import Client

FLAGS = (
    "--runner", "tensorflow", "--device", "cpu", "--kv-cache-gib", "0.01",
    "--max-sequences", "4", "--max-step-tokens", "16", "--precision", "bfloat16",
)  # fmt: skip
READY_SECONDS = 600
pytestmark = pytest.mark.timeout(900)


def metric(server: ServerProcess, name: str) -> float:
    """What /metrics says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def compilations(server: ServerProcess) -> float:
    return metric(server, 'cadenza_xla_compilations_total{model="tiny"}')


def resident(server: ServerProcess) -> float:
    return metric(server, "cadenza_device_processes_resident_memory_bytes")


def test_every_bucket_is_compiled_before_ready_and_nothing_is_under_load(tiny_artifact: Path) -> None:
    options: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 1, "n": 3},
        {"seed": 1, "top_p": 0.8, "top_k": 9, "frequency_penalty": 0.5},
        {"temperature": 0.0, "logprobs": 3, "echo": True, "logit_bias": {5: 2.0}},
    ]
    with (
        serve({"tiny": tiny_artifact}, *FLAGS, timeout=READY_SECONDS) as server,
        Client(server.target) as client,
    ):
        progress = [entry["bucket"] for entry in server.log if entry["event"] == "compiled"]
        count = len(progress)
        assert progress == [f"{number} of {count}" for number in range(1, count + 1)]
        assert compilations(server) == count > 8
        assert client.model().precision == "bfloat16"
        assert resident(server) > 256 << 20
        for one in options:
            prompts = ["The quick", "The quick brown fox jumps over the lazy dog, 1234 times a day"]
            texts = [client.complete(prompt, max_tokens=8, **one).choices[0].text for prompt in prompts]
            again = [client.complete(prompt, max_tokens=8, **one).choices[0].text for prompt in prompts]
            assert texts == again
        assert compilations(server) == count
