"""The requests of one ModelStreamInfer: answered side by side, each by as many responses as it has news."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from cadenza.kserve import inference_pb2 as oip
from cadenza.server.errors import RequestError
from cadenza.server.rpc.intake import Context
from cadenza.server.rpc.kserve.reply import refusal

MOST_AT_ONCE = 128
"""Requests of one stream; the next is read when one of them has ended."""

Write = Callable[[oip.ModelStreamInferResponse], Awaitable[None]]
Answer = Callable[[oip.ModelInferRequest, Write], Awaitable[RequestError | None]]
"""Writes all responses to a request, or gives the error that takes the place of the rest."""


async def answer_all(
    requests: AsyncIterator[oip.ModelInferRequest], context: Context, answer: Answer
) -> None:
    """Returns when the client sends no more and all is answered.

    Raises RequestError where what comes is no request; that ends the stream.
    """
    places = asyncio.Semaphore(MOST_AT_ONCE)
    write = _Writer(context)

    async def one(request: oip.ModelInferRequest) -> None:
        try:
            error = await answer(request, write)
            if error is not None:
                await write(refusal(request.id, error))
        finally:
            places.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await places.acquire()
                group.create_task(one(request))
    except* RequestError as errors:
        raise errors.exceptions[0] from None
    if write.client_is_gone:
        raise asyncio.CancelledError


class _Writer:
    """Writes one response at a time; while the client takes none, news of requests are merged behind it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._turn = asyncio.Lock()
        self.client_is_gone = False
        """It left while it was being written to, which grpc says first to who writes, then to the call."""

    async def __call__(self, response: oip.ModelStreamInferResponse) -> None:
        async with self._turn:
            try:
                await self._context.write(response)
            except grpc.aio.InternalError:
                self.client_is_gone = True
                raise asyncio.CancelledError from None
