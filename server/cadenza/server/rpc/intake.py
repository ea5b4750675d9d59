"""How a completion request reaches the engine, whichever API it came by: one queue, one set of checks."""

import math
from collections.abc import Callable
from typing import Any

import grpc

from cadenza.server.admission import Arrival, Place
from cadenza.server.models import ServedModel
from cadenza.server.rpc.call import Call, client_id, current_call
from cadenza.server.rpc.parameters import read_request
from cadenza.server.rpc.prompt import read_prompt
from cadenza.server.streams import Stream
from cadenza.v1 import completion_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


def read_arrival(
    context: Context, call: Call, clock: Callable[[], float], *, size: int, priority: int = 0
) -> Arrival:
    """Who asks, and until when. `size` is in bytes; `clock` is the engine's, in seconds.

    A name that was proved goes before one that the metadata claims. Raises InvalidRequestError for a claimed
    client id that is none.
    """
    remaining: float | None = context.time_remaining()
    return Arrival(
        request_id=call.request_id,
        time=call.arrival,
        deadline=math.inf if remaining is None else clock() + remaining,
        size=size,
        client=call.client or client_id(context.invocation_metadata() or (), context.peer()),
        priority=priority,
    )


async def submit(
    prompt: pb.Prompt, parameters: pb.CompletionParameters, model: ServedModel, place: Place
) -> tuple[Stream, tuple[int, ...]]:
    """Hands what holds a place to the engine: its stream, which must be closed, and the prompt's token ids.

    Raises InvalidRequestError, and what `Dispatcher.submit` does.
    """
    token_ids = await read_prompt(prompt, model, model.max_context - 1)
    request = read_request(parameters, token_ids, model, place.arrival)
    stream = model.dispatcher.submit(request, place)
    call = current_call.get()
    call.accounts.append(stream.account)
    call.is_chat = prompt.HasField("chat")
    return stream, token_ids
