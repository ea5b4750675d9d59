"""The prompts of one call as requests of the engine, and their news as one flow."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from cadenza.server.admission import Arrival, Place
from cadenza.server.errors import InvalidRequestError, QueueFullError
from cadenza.server.models import ServedModel
from cadenza.server.rpc.intake import submit
from cadenza.server.streams import Part, Stream
from cadenza.v1 import completion_pb2 as pb

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Submitted:
    """A prompt that the engine has."""

    stream: Stream
    prompt_token_ids: tuple[int, ...]


async def submit_all(
    prompts: Sequence[pb.Prompt],
    parameters: pb.CompletionParameters,
    model: ServedModel,
    arrival: Arrival,
    streams: contextlib.ExitStack,
) -> list[Submitted]:
    """Hands every prompt to the engine, or none; `streams` closes them.

    All have their places before anything is awaited, so a version that is swapped meanwhile finishes them.
    Raises what `submit` and `Dispatcher.enter` do.
    """
    submitted = []
    with contextlib.ExitStack() as places:
        for index, place in enumerate(_enter(prompts, model, arrival, places)):
            try:
                stream, token_ids = await submit(prompts[index], parameters, model, place)
            except InvalidRequestError as error:
                raise _of_prompt(error, index, len(prompts)) from error
            submitted.append(Submitted(streams.enter_context(stream), token_ids))
    return submitted


async def results(streams: Sequence[Stream]) -> list[Part]:
    """The whole answers, in order. Raises RequestError as soon as one has none."""
    return await _gathered([stream.result() for stream in streams])


async def parts(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, Part], None]:
    """What is new, with the number of the stream it is of, until all have ended. Raises RequestError."""
    if len(streams) == 1:
        while True:
            part = await streams[0].next_part()
            yield 0, part
            if part.finished is not None:
                return
    tasks = {asyncio.create_task(stream.next_part()): index for index, stream in enumerate(streams)}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, part = tasks.pop(task), task.result()
                if part.finished is None:
                    tasks[asyncio.create_task(streams[index].next_part())] = index
                yield index, part
    finally:
        await _cancel(tasks)


async def _gathered(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await _cancel(tasks)
    return [task.result() for task in tasks]


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _enter(
    prompts: Sequence[pb.Prompt], model: ServedModel, arrival: Arrival, places: contextlib.ExitStack
) -> list[Place]:
    """A place in the queue for every prompt, given back by `places`. Raises QueueFullError."""
    try:
        return [
            places.enter_context(model.dispatcher.enter(dataclasses.replace(arrival, size=prompt.ByteSize())))
            for prompt in prompts
        ]
    except QueueFullError as error:
        if len(prompts) == 1:
            raise
        message = f"{error.message}; these prompts need {len(prompts)} places"
        raise QueueFullError(message, error.retry_after or 0) from error


def _of_prompt(error: InvalidRequestError, index: int, count: int) -> InvalidRequestError:
    """The error with the number of the prompt, where there are several."""
    if count == 1 or not error.field.startswith("prompt"):
        return error
    field = f"prompt[{index}]{error.field.removeprefix('prompt.token_ids.ids').removeprefix('prompt.text')}"
    message = error.message.replace(error.field, field)
    metadata = {key: value for key, value in error.metadata.items() if key != "field"}
    return InvalidRequestError(
        error.reason, field, message if field in message else f"{field}: {message}", metadata=metadata
    )
