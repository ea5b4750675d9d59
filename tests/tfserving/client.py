"""A client as TensorFlow Serving's users write it: its generated stubs, and tensors by TensorFlow."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def predict_request(
    signature: str, inputs: Mapping[str, Any], *, model: str = "tiny", outputs: Sequence[str] = ()
) -> Any:
    """A PredictRequest; inputs that are not TensorProtos are turned into some by TensorFlow."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        is_proto = hasattr(value, "tensor_shape")
        request.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return request


def sampling(rows: int, **columns: Sequence[float]) -> dict[str, Any]:
    """The inputs of `complete` beside the prompts: greedy, 5 tokens, unless a column says otherwise."""
    plain: dict[str, tuple[float, Any]] = {
        "max_tokens": (5, np.int32),
        "temperature": (0, np.float32),
        "top_k": (0, np.int32),
        "top_p": (1, np.float32),
        "seed": (0, np.int64),
    }
    return {
        name: np.array(columns.get(name, [value] * rows), dtype) for name, (value, dtype) in plain.items()
    }


@dataclasses.dataclass(frozen=True)
class ServingClient:
    """Calls over a channel of grpc.aio."""

    channel: grpc.aio.Channel

    @property
    def prediction(self) -> Any:
        """The stub of PredictionService."""
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    @property
    def models(self) -> Any:
        """The stub of ModelService."""
        return model_service_pb2_grpc.ModelServiceStub(self.channel)

    async def predict(self, signature: str, inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """The outputs as arrays."""
        response = await self.prediction.Predict(predict_request(signature, inputs, **options))
        return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}

    async def signatures(self, model: str = "tiny") -> Mapping[str, Any]:
        """The signature definitions of GetModelMetadata."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = model
        response = await self.prediction.GetModelMetadata(request)
        found = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(found)
        signatures: Mapping[str, Any] = found.signature_def
        return signatures

    async def states(self, model: str = "tiny") -> dict[int, str]:
        """The states of GetModelStatus by version."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        response = await self.models.GetModelStatus(request)
        status = get_model_status_pb2.ModelVersionStatus
        return {one.version: status.State.Name(one.state) for one in response.model_version_status}
