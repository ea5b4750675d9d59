"""TensorFlow Serving's client on the real model gets what TensorFlow makes of the SavedModel."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from deploy.demo.serving import ServerProcess
from tests.tfserving.comparison import Predict, assert_equal, run_by_tensorflow, served

pytestmark = pytest.mark.real_model

PROMPTS = ["The quick brown fox", "def fibonacci(n):", "東京は日本の首都で、"]
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
"""Its answer ends before the default length."""


@pytest.fixture(scope="module")
def predict(float32_server: ServerProcess) -> Iterator[Predict]:
    with served(float32_server.target, "smollm2") as run:
        yield run


@pytest.fixture(scope="module")
def saved_model(real_float32: Path) -> Predict:
    return run_by_tensorflow(real_float32)


def test_serving_default_is_the_saved_models(predict: Predict, saved_model: Predict) -> None:
    inputs = {"prompt": np.array([QUESTION], object)}
    found = predict("serving_default", inputs)
    assert found["completion"][0].startswith(b"The capital of France is Paris")
    assert_equal(found, saved_model("serving_default", inputs))


def test_complete_is_the_saved_models_greedy_and_sampled(predict: Predict, saved_model: Predict) -> None:
    inputs = {
        "prompt": np.array([*PROMPTS, PROMPTS[0]], object),
        "max_tokens": np.array([12, 3, 8, 12], np.int32),
        "temperature": np.array([0, 0, 0, 0.8], np.float32),
        "top_k": np.array([0, 0, 0, 40], np.int32),
        "top_p": np.array([1, 1, 1, 0.9], np.float32),
        "seed": np.array([0, 0, 0, -7], np.int64),
    }
    assert_equal(predict("complete", inputs), saved_model("complete", inputs))


def test_tokenize_and_detokenize_are_the_saved_models(predict: Predict, saved_model: Predict) -> None:
    texts = [*PROMPTS, "", "<|im_start|>user\n", b"broken \xe6\x9d utf-8"]
    inputs = {"text": np.array(texts, object)}
    tokens = predict("tokenize", inputs)
    assert_equal(tokens, saved_model("tokenize", inputs))
    assert_equal(predict("detokenize", tokens), saved_model("detokenize", tokens))


def test_score_is_the_saved_models(predict: Predict, saved_model: Predict) -> None:
    inputs = {"text": np.array(PROMPTS, object)}
    assert_equal(predict("score", inputs), saved_model("score", inputs))


def test_metadata_are_the_saved_models_signatures(float32_server: ServerProcess, real_float32: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "smollm2"
    with grpc.insecure_channel(float32_server.target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.GetModelMetadata(request, 10.0)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    (graph,) = saved_model_pb2.SavedModel.FromString(
        (real_float32 / "saved_model.pb").read_bytes()
    ).meta_graphs
    assert found.signature_def == graph.signature_def
    assert "logits" in found.signature_def


def test_the_server_has_not_loaded_tensorflow(float32_server: ServerProcess, predict: Predict) -> None:
    predict("tokenize", {"text": np.array(["a"], object)})
    maps = Path(f"/proc/{float32_server.process.pid}/maps").read_text(encoding="utf-8")
    assert "ai_edge_litert" in maps
    assert "/tensorflow/" not in maps
    (line,) = [line for line in float32_server.log if line["event"] == "tensorflow_serving_api"]
    assert line["served"]
