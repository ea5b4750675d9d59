"""cadenza.v1.CompletionService: the methods, from wire to engine and back."""
# ruff: noqa: N802, ARG002  the names and the signatures are grpc's

import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from cadenza.server.engine.request import Finished, Request
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.rpc.call import Call, current_call
from cadenza.server.rpc.convert import create_response, model_message, stream_response
from cadenza.server.rpc.parameters import read_request
from cadenza.server.rpc.prompt import read_prompt
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class CompletionServicer(pb_grpc.CompletionServiceServicer):
    """Answers from the models of a table. `clock` is the engine's, in seconds.

    Errors are raised as RequestError; the interceptor turns them into statuses.
    """

    def __init__(self, models: ModelTable, clock: Callable[[], float]) -> None:
        self._models = models
        self._clock = clock

    async def CreateCompletion(
        self, request: pb.CreateCompletionRequest, context: _Context
    ) -> pb.CreateCompletionResponse:
        """Answers when the completion has ended."""
        call = current_call.get()
        model, engine_request = await self._read(request, context, call)
        with model.dispatcher.submit(engine_request) as stream:
            finished = await stream.result()
        _note(call, finished)
        return create_response(finished, call.request_id, model.name)

    async def StreamCompletion(
        self, request: pb.StreamCompletionRequest, context: _Context
    ) -> AsyncIterator[pb.StreamCompletionResponse]:
        """Answers with all that is new, as often as the client takes it."""
        call = current_call.get()
        model, engine_request = await self._read(request, context, call)
        with model.dispatcher.submit(engine_request) as stream:
            while True:
                part = await stream.next_part()
                if isinstance(part, Finished):
                    _note(call, part)
                yield stream_response(part, call.request_id, model.name)
                if isinstance(part, Finished):
                    return

    async def GetModel(self, request: pb.GetModelRequest, context: _Context) -> pb.GetModelResponse:
        """Describes one model."""
        return pb.GetModelResponse(model=model_message(self._models.resolve(request.model)))

    async def ListModels(self, request: pb.ListModelsRequest, context: _Context) -> pb.ListModelsResponse:
        """Lists the models that are loaded, by name."""
        return pb.ListModelsResponse(models=map(model_message, self._models.loaded()))

    async def CountTokens(self, request: pb.CountTokensRequest, context: _Context) -> pb.CountTokensResponse:
        """Tokenizes a prompt of any length."""
        model = self._models.resolve(request.model)
        token_ids = await read_prompt(request.prompt, model, None)
        return pb.CountTokensResponse(prompt_tokens=len(token_ids), token_ids=token_ids)

    async def _read(
        self, request: pb.CreateCompletionRequest | pb.StreamCompletionRequest, context: _Context, call: Call
    ) -> tuple[ServedModel, Request]:
        call.log["model"] = request.model[:128]
        model = self._models.resolve(request.model)
        call.log["model"] = model.name
        token_ids = await read_prompt(request.prompt, model, model.max_context - 1)
        remaining: float | None = context.time_remaining()
        engine_request = read_request(
            request.parameters,
            token_ids,
            model,
            request_id=call.request_id,
            arrival=call.arrival,
            deadline=math.inf if remaining is None else self._clock() + remaining,
        )
        return model, engine_request


def _note(call: Call, finished: Finished) -> None:
    """What the call's log line says of its completion."""
    timing = finished.timing
    call.log.update(
        prompt_tokens=finished.prompt_tokens,
        completion_tokens=finished.completion_tokens,
        finish_reason=finished.finish_reason.value,
        time_to_first_token=round(timing.first_token - timing.arrival, 6),
    )
