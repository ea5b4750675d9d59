"""The TensorFlow runner on the real model, compiled by XLA on the CPU, against the CPU runner."""

from pathlib import Path

import pytest
from tests import data
from tests.real.cpu_program import load_runner
from tests.runner.driver import Answer, Job, complete
from tests.runner.tensorflow.exported import load

from cadenza.server.runner.base import Runner

pytestmark = pytest.mark.real_model

TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea, there lived",
]


@pytest.fixture(scope="module")
def prompts(real_float32: Path) -> list[list[int]]:
    tokenizer = data.artifact_tokenizer(real_float32)
    return [tokenizer.encode(text).ids for text in TEXTS]


def greedy(runner: Runner, prompts: list[list[int]]) -> list[Answer]:
    """32 tokens after each prompt, side by side."""
    return complete(runner, [Job(prompt, count=32) for prompt in prompts])


def test_greedy_tokens_in_float32_are_the_cpu_runners(real_float32: Path, prompts: list[list[int]]) -> None:
    cpu = load_runner(real_float32)
    expected = greedy(cpu, prompts)
    cpu.close()
    runner = load(real_float32, kv_cache_bytes=64 << 20, max_sequences=4)
    found = greedy(runner, prompts)
    runner.close()
    assert found == expected
