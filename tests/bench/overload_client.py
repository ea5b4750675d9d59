"""The load of the overload benchmark, in a process of its own: `python -m tests.bench.overload_client`.

It runs on the cores that the server computes on, so it is light: requests are made before the load begins,
refusals are not parsed, one asyncio loop and one connection carry everything. What it still takes it takes
from the server. Writes a JSON list of [start, queue seconds, seconds, outcome] to stdout; `start` is in
seconds after the load's begin, and the queue's seconds are the server's own.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence

import grpc
import grpc.aio
from tests.bench.workload import NEW_TOKENS, PROMPT_TOKENS, prompts

from cadenza.v1 import completion_pb2 as pb

METHOD = "/cadenza.v1.CompletionService/CreateCompletion"
_DETAILS = "grpc-status-details-bin"
_REASONS = ("QUEUE_FULL", "DEADLINE_UNREACHABLE")
FINISHED = "finished"

Record = tuple[float, float, float, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overload_client", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, required=True, help="for how long requests are begun")
    parser.add_argument("--concurrency", type=int, help="closed loop: so many requests at all times")
    parser.add_argument("--rate", type=float, help="open loop: requests a second, evenly spaced")
    parser.add_argument("--deadline", type=float, help="seconds for each request")
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    options = parser.parse_args(arguments)
    if (options.rate is None) == (options.concurrency is None):
        parser.error("give either --concurrency or --rate")
    json.dump(asyncio.run(load(options)), sys.stdout)
    return 0


async def load(options: argparse.Namespace) -> list[Record]:
    """Runs the load; returns when the last answer has come."""
    most = int(options.rate * options.seconds) + 1 if options.rate else 5_000
    messages = serialised(most, options.new_tokens)
    async with grpc.aio.insecure_channel(options.target) as channel:
        sender = Sender(channel.unary_unary(METHOD), options.deadline)
        if options.rate:
            await sender.open_loop(messages, options.rate, options.seconds)
        else:
            await sender.closed_loop(messages, options.concurrency, options.seconds)
    return sender.records


def serialised(count: int, new_tokens: int) -> list[bytes]:
    """Distinct requests, ready for the wire."""
    parameters = pb.CompletionParameters(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    return [
        pb.CreateCompletionRequest(
            prompt=pb.Prompt(token_ids=pb.TokenIds(ids=prompt)), parameters=parameters
        ).SerializeToString()
        for prompt in prompts(count, PROMPT_TOKENS, 49_152)
    ]


class Sender:
    """Sends requests and notes how each ended."""

    def __init__(
        self, call: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]", deadline: float | None
    ) -> None:
        self._call = call
        self._deadline = deadline
        self._begin = time.perf_counter()
        self.records: list[Record] = []

    async def open_loop(self, messages: Sequence[bytes], rate: float, seconds: float) -> None:
        """Begins requests at their times, whatever has become of those before."""
        async with asyncio.TaskGroup() as tasks:
            for index, message in enumerate(messages[: int(rate * seconds)]):
                await asyncio.sleep(max(0.0, self._begin + index / rate - time.perf_counter()))
                tasks.create_task(self._send(message))

    async def closed_loop(self, messages: Sequence[bytes], concurrency: int, seconds: float) -> None:
        """Keeps so many requests in flight; those that run at the end are waited for."""
        waiting = itertools.cycle(messages)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(concurrency):
                tasks.create_task(self._one_after_another(waiting, seconds))

    async def _one_after_another(self, messages: Iterator[bytes], seconds: float) -> None:
        while time.perf_counter() - self._begin < seconds:
            await self._send(next(messages))

    async def _send(self, message: bytes) -> None:
        start = time.perf_counter()
        outcome, queue = FINISHED, 0.0
        try:
            answer = await self._call(message, timeout=self._deadline)
            timing = pb.CreateCompletionResponse.FromString(answer).timing
            queue = timing.queue.ToTimedelta().total_seconds()
        except grpc.aio.AioRpcError as error:
            outcome = _reason(error)
        now = time.perf_counter()
        self.records.append((start - self._begin, queue, now - start, outcome))


def _reason(error: grpc.aio.AioRpcError) -> str:
    """The refusal's reason; the status's name for everything else."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            return next((reason for reason in _REASONS if reason.encode() in value), error.code().name)
    return str(error.code().name)


if __name__ == "__main__":
    sys.exit(main())
