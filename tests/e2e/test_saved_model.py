"""The SavedModel's `complete` and the server give the same greedy tokens for the same prompts."""

from pathlib import Path

import pytest
from deploy.demo.serving import ServerProcess
from tests import data

from cadenza.client import Client

PROMPTS = (
    "The quick brown fox",
    "def fibonacci(n):",
    "Once upon a time, in a harbour town at the edge of the map,",
    "東京は日本の首都で、",
    "In 2024, 17 of 1,250 samples (1.36 %) failed; in 2025,",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    data.humaneval_tasks()[0]["prompt"],
)
NEW_TOKENS = 48


@pytest.mark.real_model
def test_greedy_completions_agree_token_for_token(real_float32: Path, float32_server: ServerProcess) -> None:
    import tensorflow as tf

    size = len(PROMPTS)
    model = tf.saved_model.load(str(real_float32))
    found = model.signatures["complete"](
        prompt=tf.constant(PROMPTS),
        max_tokens=tf.fill([size], NEW_TOKENS),
        temperature=tf.zeros([size]),
        top_k=tf.zeros([size], tf.int32),
        top_p=tf.ones([size]),
        seed=tf.zeros([size], tf.int64),
    )
    with Client(float32_server.target) as client:
        served_rows = [client.complete(prompt, max_tokens=NEW_TOKENS, temperature=0) for prompt in PROMPTS]
    for row, (prompt, served) in enumerate(zip(PROMPTS, served_rows, strict=True)):
        count = int(found["token_count"][row])
        assert list(served.token_ids) == found["token_ids"][row, :count].numpy().tolist(), prompt
        assert served.text == found["completion"][row].numpy().decode()
        assert served.finish_reason is not None
        assert served.finish_reason.name.lower() == found["finish_reason"][row].numpy().decode()
