"""Concurrent streams that know what each version of a model says, and check every token of theirs."""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable, Sequence

import grpc

from cadenza.v1 import completion_pb2 as pb
from cadenza.v1 import completion_pb2_grpc as pb_grpc

TokenIds = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What is asked: each of the prompts for so many tokens, greedily, whatever would end it."""

    prompts: Sequence[TokenIds]
    tokens: int

    def request(self, prompt: int, model: str) -> pb.StreamCompletionRequest:
        """For one prompt, by its index."""
        parameters = pb.CompletionParameters(max_tokens=self.tokens, temperature=0.0, ignore_eos=True)
        ids = pb.TokenIds(ids=self.prompts[prompt])
        return pb.StreamCompletionRequest(model=model, prompt=pb.Prompt(token_ids=ids), parameters=parameters)


async def answers(stub: "pb_grpc.CompletionServiceAsyncStub", model: str, work: Work) -> list[TokenIds]:
    """What a model says to each prompt, one after the other."""
    said = []
    for prompt in range(len(work.prompts)):
        tokens: list[int] = []
        async for message in stub.StreamCompletion(work.request(prompt, model)):
            for choice in message.choices:
                tokens += choice.token_ids
        said.append(tuple(tokens))
    return said


class CheckedStreams:
    """Keeps so many streams of a model running; what went wrong is in `failures`."""

    def __init__(
        self,
        stub: "pb_grpc.CompletionServiceAsyncStub",
        model: str,
        work: Work,
        expected: Callable[[int], Sequence[TokenIds]],
    ) -> None:
        """`expected` gives what a version says to each prompt."""
        self._stub = stub
        self._model = model
        self._work = work
        self._expected = expected
        self.failures: list[str] = []
        self.by_version: collections.Counter[int] = collections.Counter()
        """Whole and right streams."""
        self._ended = asyncio.Condition()
        self.messages: list[tuple[float, float]] = []
        """Of every message after a stream's first: when it came, and after what pause, in seconds."""

    async def run(self, concurrency: int, stop: asyncio.Event) -> None:
        """Begins a stream as soon as another has ended, until `stop`; then the last ones end."""

        async def one(worker: int) -> None:
            prompt = worker
            while not stop.is_set():
                await self._stream(prompt % len(self._work.prompts))
                prompt += concurrency
                async with self._ended:
                    self._ended.notify_all()

        await asyncio.gather(*map(one, range(concurrency)))

    async def until_whole(self, version: int, streams: int) -> None:
        """Waits until a version has answered so many streams; something that went wrong ends the wait."""
        async with self._ended:
            await self._ended.wait_for(lambda: self.failures or self.by_version[version] >= streams)

    async def _stream(self, prompt: int) -> None:
        tokens: list[int] = []
        versions, finished, last = set(), False, None
        try:
            async for message in self._stub.StreamCompletion(self._work.request(prompt, self._model)):
                versions.add(message.model_version)
                for choice in message.choices:
                    tokens += choice.token_ids
                    finished = finished or choice.finish_reason == pb.FINISH_REASON_LENGTH
                now = time.perf_counter()
                if last is not None:
                    self.messages.append((now, now - last))
                last = now
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.code().name} after {len(tokens)} tokens: {error.details()}")
            return
        self._judge(prompt, tuple(tokens), versions, finished)

    def _judge(self, prompt: int, tokens: TokenIds, versions: set[int], finished: bool) -> None:
        if len(versions) != 1:
            self.failures.append(f"one stream came from versions {sorted(versions)}")
        elif not finished or len(tokens) != self._work.tokens:
            self.failures.append(f"truncated after {len(tokens)} of {self._work.tokens} tokens")
        elif tokens != self._expected(version := versions.pop())[prompt]:
            self.failures.append(f"tokens of prompt {prompt} are not those of version {version}")
        else:
            self.by_version[version] += 1
