"""The way of a request to the engine, by the intake of all APIs."""

import dataclasses
import math
from collections.abc import Callable

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.errors import InvalidRequestError
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.rpc.call import Call
from cadenza.server.rpc.intake import Context, read_arrival, submit
from cadenza.server.rpc.kserve.inputs import Inputs
from cadenza.server.rpc.kserve.reply import Reply
from cadenza.server.rpc.parameters import read_priority
from cadenza.server.streams import Stream
from cadenza.v1 import completion_pb2 as pb


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A request that the engine has; `stream` must be closed."""

    stream: Stream
    reply: Reply


def find_model(models: ModelTable, name: str, version: str) -> ServedModel:
    """The version of a number or a label; the newest where it is empty. Raises what `resolve` does."""
    return models.resolve(f"{name}@{version}" if version else name)


async def begin(
    request: oip.ModelInferRequest,
    inputs: Inputs,
    models: ModelTable,
    context: Context,
    call: Call,
    clock: Callable[[], float],
) -> Begun:
    """Hands a request to the engine. Nothing is awaited between finding the model and entering its queue.

    `clock` is the engine's, in seconds. Raises RequestError.
    """
    call.log |= {"model": request.model_name[:128], "id": request.id[:128]}
    model = find_model(models, request.model_name, request.model_version)
    call.log |= {"model": model.name, "version": model.version}
    try:
        priority = read_priority(inputs.parameters)
        arrival = read_arrival(context, call, clock, size=request.ByteSize(), priority=priority)
        call.log["client"] = arrival.client
        latest = math.inf if inputs.timeout is None else clock() + inputs.timeout
        arrival = dataclasses.replace(arrival, deadline=min(arrival.deadline, latest))
        with model.dispatcher.enter(arrival) as place:
            prompt = pb.Prompt(text=inputs.text)
            stream, token_ids = await submit(prompt, inputs.parameters, model, place)
    except InvalidRequestError as error:
        raise _of_input(error, inputs) from error
    return Begun(stream, Reply(request.id, model, inputs, len(token_ids)))


def _of_input(error: InvalidRequestError, inputs: Inputs) -> InvalidRequestError:
    """The error with the name of the input in place of CompletionService's field."""
    field = error.field
    if field.startswith("prompt"):
        field = "text_input"
    elif field.startswith("parameters."):
        field = f"{inputs.parameters_path}.{field.removeprefix('parameters.')}"
    message = error.message.replace(error.field, field)
    return InvalidRequestError(
        error.reason,
        field,
        message if field in message else f"{field}: {message}",
        metadata={key: value for key, value in error.metadata.items() if key != "field"},
    )
