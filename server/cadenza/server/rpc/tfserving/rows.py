"""A batch of prompts through the engine: each row is a request of its own, and all are answered or none."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

from cadenza.server.admission import Arrival, Place
from cadenza.server.engine.request import Finished, Progress
from cadenza.server.errors import InvalidRequestError, QueueFullError, RequestError
from cadenza.server.models import ServedModel
from cadenza.server.rpc.intake import submit
from cadenza.server.streams import Stream
from cadenza.v1 import completion_pb2 as pb


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One prompt and how to complete it."""

    name: str
    """Of the input that the prompt comes from."""
    prompt: bytes
    parameters: pb.CompletionParameters


@dataclasses.dataclass(frozen=True, slots=True)
class Completed:
    """The answer to one row."""

    progress: Progress
    """Of its only choice, from the first token to the last."""
    finished: Finished


async def complete(rows: Sequence[Row], model: ServedModel, arrival: Arrival) -> list[Completed]:
    """Completes every row. `arrival` is the call's; each row waits in the queue with its own size.

    All rows have their places before anything is awaited, so a version that is swapped meanwhile finishes
    them.

    Raises RequestError as soon as one row is refused or fails; the others are cancelled then.
    """
    with contextlib.ExitStack() as streams:
        submitted = []
        with contextlib.ExitStack() as places:
            taken = _enter(rows, model, arrival, places)
            for index, (row, place) in enumerate(zip(rows, taken, strict=True)):
                prompt = pb.Prompt(text=row.prompt.decode(errors="replace"))
                try:
                    stream, _ = await submit(prompt, row.parameters, model, place)
                except InvalidRequestError as error:
                    raise _of_row(error, row, index) from error
                submitted.append(streams.enter_context(stream))
        return await _results(submitted)


def _enter(
    rows: Sequence[Row], model: ServedModel, arrival: Arrival, places: contextlib.ExitStack
) -> list[Place]:
    """A place in the queue for every row, given back by `places`. Raises QueueFullError."""
    arrivals = (dataclasses.replace(arrival, size=len(row.prompt)) for row in rows)
    try:
        return [places.enter_context(model.dispatcher.enter(one)) for one in arrivals]
    except QueueFullError as error:
        message = f"{error.message}; this batch needs {len(rows)} places"
        raise QueueFullError(message, error.retry_after or 0) from error


async def _results(streams: Iterable[Stream]) -> list[Completed]:
    """The answers, in order; the first failure of any ends the wait."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_result(stream)) for stream in streams]
    except* RequestError as errors:
        raise _first(errors) from errors
    return [task.result() for task in tasks]


async def _result(stream: Stream) -> Completed:
    part = await stream.result()
    if part.finished is None or len(part.choices) != 1:
        raise AssertionError(f"the whole answer of one choice was expected: {part}")
    return Completed(part.choices[0], part.finished)


def _first(errors: BaseExceptionGroup[RequestError]) -> RequestError:
    """One failure stands for all."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _of_row(error: InvalidRequestError, row: Row, index: int) -> InvalidRequestError:
    """The error with the input's name and its row in place of the parameter's."""
    name = row.name if error.field.startswith("prompt") else error.field.removeprefix("parameters.")
    field = f"inputs[{name}][{index}]"
    message = error.message.replace(error.field, field)
    return InvalidRequestError(
        error.reason,
        field,
        message if field in message else f"{field}: {message}",
        metadata={key: value for key, value in error.metadata.items() if key != "field"},
    )
