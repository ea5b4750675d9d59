"""inference.GRPCInferenceService: the Open Inference Protocol (KServe v2), with Triton's streaming method."""
# ruff: noqa: N802, ARG002  the names and the signatures are grpc's

import functools
import importlib.metadata
import itertools
from collections.abc import AsyncIterator, Callable

from cadenza.kserve import inference_pb2 as oip
from cadenza.kserve import inference_pb2_grpc as oip_grpc
from cadenza.server.errors import InvalidRequestError, Reason, RequestError
from cadenza.server.models import ModelTable
from cadenza.server.rpc.call import Call, current_call
from cadenza.server.rpc.intake import Context
from cadenza.server.rpc.interceptor import CallInterceptor
from cadenza.server.rpc.kserve.generation import begin, find_model
from cadenza.server.rpc.kserve.inputs import read_inputs
from cadenza.server.rpc.kserve.signature import model_metadata
from cadenza.server.rpc.kserve.streaming import Write, answer_all

SERVICE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_EXTENSIONS = ("parameters",)


class InferenceServicer(oip_grpc.GRPCInferenceServiceServicer):
    """Answers from the models of a table. `clock` is the engine's, in seconds.

    Errors are raised as RequestError; `calls` turns them into statuses, and counts the requests of streams.
    """

    def __init__(
        self,
        models: ModelTable,
        clock: Callable[[], float],
        is_ready: Callable[[], bool],
        calls: CallInterceptor,
    ) -> None:
        self._models = models
        self._clock = clock
        self._is_ready = is_ready
        self._calls = calls

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        """True: who cannot answer says nothing."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        """What health says."""
        return oip.ServerReadyResponse(ready=self._is_ready())

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        """False too for what is not served."""
        try:
            find_model(self._models, request.name, request.version)
        except RequestError:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=self._is_ready())

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: Context
    ) -> oip.ServerMetadataResponse:
        """Name, version and extensions."""
        return oip.ServerMetadataResponse(
            name="cadenza", version=importlib.metadata.version("cadenza"), extensions=_EXTENSIONS
        )

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: Context
    ) -> oip.ModelMetadataResponse:
        """The versions that take requests, and the tensors of all of them."""
        model = find_model(self._models, request.name, request.version)
        return model_metadata(model, sorted(self._models.served(model.name)))

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        """Answers when every choice has ended."""
        call = current_call.get()
        inputs = read_inputs(request)
        if inputs.stream:
            raise InvalidRequestError(
                Reason.UNSUPPORTED_FIELD, "stream", "stream is true, which needs ModelStreamInfer"
            )
        begun = await begin(request, inputs, self._models, context, call, self._clock)
        with begun.stream:
            part = await begun.stream.result()
        response = begun.reply.response(part)
        if part.finished is not None:
            call.log |= begun.reply.log(part.finished)
        return response

    async def ModelStreamInfer(  # type: ignore[override]  # it writes by itself
        self, requests: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> None:
        """Answers as many requests as come, in whatever order they have news."""
        stream = current_call.get()
        numbers = itertools.count(1)

        async def answer(request: oip.ModelInferRequest, write: Write) -> RequestError | None:
            call = Call(f"{stream.request_id}-{next(numbers)}", self._clock(), client=stream.client)
            run = functools.partial(self._stream, call=call, write=write)
            return await self._calls.answer_part(run, request, context, call)

        await answer_all(requests, context, answer)

    async def _stream(
        self, request: oip.ModelInferRequest, context: Context, *, call: Call, write: Write
    ) -> None:
        """All responses to one request: one where it does not ask for a stream."""
        inputs = read_inputs(request)
        begun = await begin(request, inputs, self._models, context, call, self._clock)
        with begun.stream as news:
            while True:
                part = await (news.next_part() if inputs.stream else news.result())
                await write(begun.reply.streamed(part))
                if part.finished is not None:
                    call.log |= begun.reply.log(part.finished)
                    return
