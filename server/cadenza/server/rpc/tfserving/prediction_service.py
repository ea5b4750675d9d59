"""tensorflow.serving.PredictionService: Predict and GetModelMetadata."""
# ruff: noqa: N802, ARG002  the names and the signatures are grpc's

from collections.abc import Callable
from typing import Any, NoReturn

from cadenza.server.errors import Reason
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.rpc.call import current_call
from cadenza.server.rpc.intake import Context, read_arrival
from cadenza.server.rpc.tfserving.errors import NotServedError, invalid, missing
from cadenza.server.rpc.tfserving.messages import get_model_metadata_pb2, predict_pb2
from cadenza.server.rpc.tfserving.model_spec import find_model, read_model_spec
from cadenza.server.rpc.tfserving.predict import Inputs, Outputs, find_run
from cadenza.server.rpc.tfserving.signatures import (
    DEFAULT_SIGNATURE,
    SignatureTable,
    chosen_outputs,
    find_signature,
    read_inputs,
)
from cadenza.server.rpc.tfserving.tensors import TensorError, write_tensor

_SIGNATURE_DEF = "signature_def"


class PredictionServicer:
    """Answers from the models of a table. `clock` is the engine's, in seconds.

    Errors are raised as RequestError; the interceptor turns them into statuses.
    """

    def __init__(self, models: ModelTable, clock: Callable[[], float]) -> None:
        self._models = models
        self._clock = clock
        self._signatures = SignatureTable()

    async def Predict(self, request: Any, context: Context) -> Any:
        """Runs a signature on a batch."""
        call = current_call.get()
        arrival = read_arrival(context, call, self._clock, size=request.ByteSize())
        spec = read_model_spec(request)
        name = spec.signature_name or DEFAULT_SIGNATURE
        call.log |= {"model": spec.name[:128], "signature": name[:128], "client": arrival.client}
        model, signatures = await self._signatures.find(lambda: find_model(self._models, spec))
        signature = find_signature(signatures, name)
        run = find_run(name)
        inputs = read_inputs(signature, request.inputs)
        wanted = chosen_outputs(signature, request.output_filter)
        call.log |= {"version": model.version, "rows": _rows(inputs)}
        try:
            outputs = await run(model, inputs, arrival)
        except TensorError as error:
            raise invalid("inputs", str(error)) from error
        return _response(model, name, {output: outputs[output] for output in wanted})

    async def GetModelMetadata(self, request: Any, context: Context) -> Any:
        """Gives the SavedModel's own signature definitions."""
        spec = read_model_spec(request)
        if not request.metadata_field:
            raise missing(
                "metadata_field", "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                said = f"Metadata field {field} is not supported"
                raise invalid("metadata_field", said, Reason.FIELD_OUT_OF_RANGE)
        model, signatures = await self._signatures.find(lambda: find_model(self._models, spec))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return response

    async def Classify(self, request: Any, context: Context) -> NoReturn:
        """Is not served."""
        raise _only_predict("Classify")

    async def Regress(self, request: Any, context: Context) -> NoReturn:
        """Is not served."""
        raise _only_predict("Regress")

    async def MultiInference(self, request: Any, context: Context) -> NoReturn:
        """Is not served."""
        raise _only_predict("MultiInference")


def _only_predict(method: str) -> NotServedError:
    return NotServedError(
        f"{method} is not served: models here have no classification or regression signatures; use Predict"
    )


def _rows(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def _response(model: ServedModel, signature: str, outputs: Outputs) -> Any:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = model.name
    response.model_spec.signature_name = signature
    response.model_spec.version.value = model.version
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(write_tensor(array))
    return response
