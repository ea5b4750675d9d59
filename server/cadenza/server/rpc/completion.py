"""cadenza.v1.CompletionService: the methods, from wire to engine and back."""
# ruff: noqa: N802, ARG002  the names and the signatures are grpc's

from collections.abc import AsyncIterator, Callable

from cadenza.server.models import ModelTable
from cadenza.server.rpc.call import Call, current_call
from cadenza.server.rpc.intake import Context, read_arrival, submit
from cadenza.server.rpc.model import model_message
from cadenza.server.rpc.parameters import read_priority
from cadenza.server.rpc.prompt import read_prompt
from cadenza.server.rpc.reply import Echo, Reply
from cadenza.server.streams import Stream
from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc


class CompletionServicer(pb_grpc.CompletionServiceServicer):
    """Answers from the models of a table. `clock` is the engine's, in seconds.

    Errors are raised as RequestError; the interceptor turns them into statuses.
    """

    def __init__(self, models: ModelTable, clock: Callable[[], float]) -> None:
        self._models = models
        self._clock = clock

    async def CreateCompletion(
        self, request: pb.CreateCompletionRequest, context: Context
    ) -> pb.CreateCompletionResponse:
        """Answers when every choice has ended."""
        call = current_call.get()
        stream, reply = await self._submit(request, context, call)
        with stream:
            response = reply.whole(await stream.result())
        call.log.update(reply.log)
        return response

    async def StreamCompletion(
        self, request: pb.StreamCompletionRequest, context: Context
    ) -> AsyncIterator[pb.StreamCompletionResponse]:
        """Answers with all that is new, as often as the client takes it."""
        call = current_call.get()
        stream, reply = await self._submit(request, context, call)
        with stream:
            while True:
                part = await stream.next_part()
                message = reply.message(part)
                call.log.update(reply.log)
                yield message
                if part.finished is not None:
                    return

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describes one model, or one version of it."""
        return pb.GetModelResponse(model=model_message(self._models.resolve(request.model), self._models))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Lists the models that are loaded, by name."""
        models = (model_message(model, self._models) for model in self._models.newest())
        return pb.ListModelsResponse(models=models)

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        """Tokenizes a prompt of any length."""
        model = self._models.resolve(request.model)
        token_ids = await read_prompt(request.prompt, model, None)
        return pb.CountTokensResponse(prompt_tokens=len(token_ids), token_ids=token_ids)

    async def _submit(
        self, request: pb.CreateCompletionRequest | pb.StreamCompletionRequest, context: Context, call: Call
    ) -> tuple[Stream, Reply]:
        """From here on the request is the engine's; the stream must be closed."""
        call.log["model"] = request.model[:128]
        model = self._models.resolve(request.model)
        call.log |= {"model": model.name, "version": model.version}
        priority = read_priority(request.parameters)
        arrival = read_arrival(context, call, self._clock, size=request.ByteSize(), priority=priority)
        call.log["client"] = arrival.client
        with model.dispatcher.enter(arrival) as place:
            stream, token_ids = await submit(request.prompt, request.parameters, model, place)
        has_bos = request.prompt.HasField("text") and model.artifact.manifest.tokenizer.add_bos_token
        echo = Echo(token_ids, has_bos=has_bos) if request.parameters.echo else None
        return stream, Reply(call.request_id, model, echo)
