"""The same inputs to a server, as TensorFlow Serving's plain client sends them, and to TensorFlow itself."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

Predict = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""A signature's name and its inputs to its outputs, arrays all of them."""


@contextmanager
def served(target: str, model: str) -> Iterator[Predict]:
    """As TensorFlow Serving's documentation has it: a stub, a request, tensors made by TensorFlow."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    with grpc.insecure_channel(target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def run(signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            result = stub.Predict(request, 60.0)
            return {name: tf.make_ndarray(proto) for name, proto in result.outputs.items()}

        yield run


def run_by_tensorflow(artifact: Path) -> Predict:
    """The artifact's SavedModel."""
    import tensorflow as tf

    model = tf.saved_model.load(str(artifact))

    def run(signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        outputs = model.signatures[signature](**tensors)
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Names, types, shapes and values; log-probabilities up to rounding."""
    import numpy as np

    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        if name == "logprob":
            np.testing.assert_allclose(found[name], array, atol=2e-4)
        else:
            assert found[name].tolist() == array.tolist(), name
