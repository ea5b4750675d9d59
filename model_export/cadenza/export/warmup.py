"""tf_serving_warmup_requests: what TensorFlow Serving sends a model before it says that it is ready."""

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

FILE = "tf_serving_warmup_requests"
_TOKENS = 2
"""Generated per request: one by the prompt's pass, one by the loop."""


def write_warmup_requests(model: str, folder: Path) -> None:
    """Writes a TFRecord file with one PredictionLog for each signature that is called with text.

    Prompts of two lengths go together, so that the ragged paths are warmed too.
    """
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for signature, inputs in _requests().items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())


def _requests() -> Mapping[str, Mapping[str, tf.Tensor]]:
    prompts = tf.constant(["Hello", "The quick brown fox jumps over the lazy dog."])
    return {
        "tokenize": {"text": prompts},
        "score": {"text": prompts},
        "complete": {
            "prompt": prompts,
            "max_tokens": tf.constant([_TOKENS] * 2, tf.int32),
            "temperature": tf.constant([0.0, 1.0]),
            "top_k": tf.constant([0, 2], tf.int32),
            "top_p": tf.constant([1.0, 0.9]),
            "seed": tf.constant([0, 1], tf.int64),
        },
    }


def read_warmup_requests(folder: Path) -> list[tuple[str, dict[str, tf.Tensor]]]:
    """The requests of the file: signature and inputs.

    Raises:
        tf.errors.OpError: it is no TFRecord file.
        google.protobuf.message.DecodeError: a record is no PredictionLog.
    """
    requests = []
    for record in tf.data.TFRecordDataset(str(folder / FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests
