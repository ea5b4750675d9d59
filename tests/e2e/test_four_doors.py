"""The same request by each of the four APIs gives the same tokens: there is one engine behind all."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import openai
import pytest
from deploy.demo.serving import ServerProcess
from tests.kserve.client import infer_request, inference, tensors
from tests.tfserving.comparison import served

from cadenza.client import Client

pytestmark = pytest.mark.real_model

MODEL = "smollm2"
PROMPTS = ["The quick brown fox", "def fibonacci(n):", "東京は日本の首都で、"]
NEW_TOKENS = 24
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
SEEDED = {"temperature": 0.75, "top_k": 40, "top_p": 0.875, "seed": 20_261_121}
"""Numbers that float32 holds exactly, as TensorFlow Serving's tensors do."""

Answer = tuple[list[int], str]
"""Token ids and text."""
Ask = Callable[[str, dict[str, Any]], Answer]


@pytest.fixture(scope="module")
def own(server: ServerProcess) -> Iterator[Ask]:
    with Client(server.target) as client:

        def ask(prompt: str, sampling: dict[str, Any]) -> Answer:
            done = client.complete(prompt, max_tokens=NEW_TOKENS, **sampling)
            return list(done.token_ids), done.text

        yield ask


@pytest.fixture(scope="module")
def tensorflow_serving(server: ServerProcess) -> Iterator[Ask]:
    types = {"temperature": np.float32, "top_k": np.int32, "top_p": np.float32, "seed": np.int64}
    with served(server.target, MODEL) as predict:

        def ask(prompt: str, sampling: dict[str, Any]) -> Answer:
            inputs = {name: np.array([value], types[name]) for name, value in sampling.items()}
            inputs |= {"prompt": np.array([prompt], object), "max_tokens": np.array([NEW_TOKENS], np.int32)}
            found = predict("complete", inputs)
            return found["token_ids"][0].tolist(), found["completion"][0].decode()

        yield ask


@pytest.fixture(scope="module")
def kserve(server: ServerProcess) -> Iterator[Ask]:
    with grpc.insecure_channel(server.target) as channel:
        stub = inference(channel)

        def ask(prompt: str, sampling: dict[str, Any]) -> Answer:
            request = infer_request(
                prompt, model=MODEL, exclude_input_in_output=True, return_logprobs=True,
                sampling={**sampling, "max_tokens": NEW_TOKENS, "logprobs": 0},
            )  # fmt: skip
            found = tensors(stub.ModelInfer(request, timeout=60))
            chosen = [int(token_id) for one in json.loads(found["logprobs"][0]) for token_id in one]
            return chosen, found["text_output"][0].decode()

        yield ask


@pytest.fixture(scope="module")
def openai_text(server: ServerProcess) -> Iterator[Callable[[str, dict[str, Any]], str]]:
    """OpenAI's API has no token ids."""
    with openai.OpenAI(base_url=f"http://localhost:{server.http_port}/v1", api_key="none") as client:

        def ask(prompt: str, sampling: dict[str, Any]) -> str:
            text: str = (
                client.completions.create(
                    model=MODEL, prompt=prompt, max_tokens=NEW_TOKENS, extra_body=sampling
                )
                .choices[0]
                .text
            )
            return text

        yield ask


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_same_request_gives_the_same_tokens_by_every_door(
    prompt: str,
    sampling: dict[str, Any],
    own: Ask,
    tensorflow_serving: Ask,
    kserve: Ask,
    openai_text: Callable[[str, dict[str, Any]], str],
) -> None:
    token_ids, text = own(prompt, sampling)
    assert token_ids
    assert tensorflow_serving(prompt, sampling) == (token_ids, text)
    assert kserve(prompt, sampling) == (token_ids, text)
    assert openai_text(prompt, sampling) == text
