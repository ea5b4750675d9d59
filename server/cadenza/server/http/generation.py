"""The way of a call that generates: from its body to the engine, and the answer back."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import ValidationError

from cadenza.server.admission import Arrival
from cadenza.server.http import errors
from cadenza.server.http.batch import Submitted, parts, results, submit_all
from cadenza.server.http.bodies import CommonBody
from cadenza.server.http.calls import Incoming
from cadenza.server.http.reply import ChoiceWriter, Form, Reply
from cadenza.server.http.sending import Answer
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.rpc.parameters import read_priority
from cadenza.v1 import completion_pb2 as pb

_Body = TypeVar("_Body", bound=CommonBody)
MakeWriter = Callable[[ServedModel, Sequence[Submitted]], ChoiceWriter]


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What is to be generated."""

    prompts: Sequence[pb.Prompt]
    parameters: pb.CompletionParameters
    make_writer: MakeWriter


def read_body(incoming: Incoming, kind: type[_Body]) -> _Body:
    """Raises InvalidRequestError."""
    try:
        return kind.model_validate_json(incoming.body)
    except ValidationError as error:
        raise errors.invalid_body(error) from error


def find_model(incoming: Incoming, body: CommonBody, models: ModelTable) -> ServedModel:
    """The model that the body names. Raises what `ModelTable.resolve` does."""
    incoming.call.log["model"] = body.model[:128]
    model = models.resolve(body.model)
    incoming.call.log |= {"model": model.name, "version": model.version}
    return model


async def generate(
    incoming: Incoming, answer: Answer, body: CommonBody, model: ServedModel, work: Work
) -> None:
    """Answers with all choices of all prompts. Nothing is awaited before they have their places."""
    call = incoming.call
    client = incoming.client(body.user)
    call.log["client"] = client
    arrival = Arrival(
        request_id=call.request_id,
        time=call.arrival,
        deadline=math.inf,
        size=len(incoming.body),
        client=client,
        priority=read_priority(work.parameters),
    )
    usage = bool(body.stream_options and body.stream_options.include_usage)
    with contextlib.ExitStack() as streams:
        submitted = await submit_all(work.prompts, work.parameters, model, arrival, streams)
        writer = work.make_writer(model, submitted)
        reply = Reply(call.request_id, model, writer, Form(body.n or 1, usage))
        if body.stream:
            await _stream(answer, reply, submitted)
        else:
            await answer.whole(reply.whole(await results([one.stream for one in submitted])))
        call.log.update(reply.log)


async def _stream(answer: Answer, reply: Reply, submitted: Sequence[Submitted]) -> None:
    async with contextlib.aclosing(parts([one.stream for one in submitted])) as news:
        async for prompt, part in news:
            data = reply.events(prompt, part)
            if reply.finished_prompts == len(submitted):
                await answer.end_events(data + reply.last_events())
            elif data:
                await answer.events(data)
