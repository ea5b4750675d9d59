"""A closed loop: N streams at all times, each beginning the next prompt when the last has ended.

One asyncio loop and one connection carry all streams.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

from cadenza.client import AsyncClient, AsyncStream, CadenzaError, CompletionOptions, Message
from cadenza.load._record import MessageTime, RequestRecord

LoadPrompt: TypeAlias = str | Sequence[int] | Sequence[Message]
"""Text, token ids, or a conversation."""


async def closed_loop(
    target: str,
    prompts: Sequence[LoadPrompt],
    *,
    concurrency: int,
    options: CompletionOptions | None = None,
) -> list[RequestRecord]:
    """Streams a completion of every prompt, `concurrency` at a time; gives a record per prompt, in order.

    A request that fails, also for an option of the wrong type, is recorded with its reason and the load
    goes on. Raises ValueError where concurrency is below 1.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
    records: list[RequestRecord | None] = [None] * len(prompts)
    waiting = iter(enumerate(prompts))
    async with AsyncClient(target) as client, asyncio.TaskGroup() as streams:
        for _ in range(min(concurrency, len(prompts))):
            streams.create_task(_one_after_another(client, waiting, records, options or {}))
    return [record for record in records if record is not None]


async def _one_after_another(
    client: AsyncClient,
    waiting: Iterator[tuple[int, LoadPrompt]],
    records: list[RequestRecord | None],
    options: CompletionOptions,
) -> None:
    for index, prompt in waiting:
        record = records[index] = RequestRecord(time.perf_counter())
        try:
            await _read(_begun(client, prompt, options), record)
        except CadenzaError as error:
            record.error = error.reason
        record.end = time.perf_counter()


def _begun(client: AsyncClient, prompt: LoadPrompt, options: CompletionOptions) -> AsyncStream:
    if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Message):
        return client.stream_chat(cast("Sequence[Message]", prompt), **options)
    return client.stream(cast("str | Sequence[int]", prompt), **options)


async def _read(stream: AsyncStream, record: RequestRecord) -> None:
    async for chunk in stream:
        if tokens := sum([len(choice.token_ids) for choice in chunk.choices]):
            record.messages.append(MessageTime(time.perf_counter(), tokens))
