"""Cadenza's engine in process, without a server. arena.py starts it."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.demo.models import CACHE
from google.protobuf import json_format
from tests.bench.rivals.driver import Completion, Settings, TokenIds, serve

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import Event, Failed, Finished, Progress, Request, StepReport, Submit
from cadenza.server.runner.cpu.options import CpuOptions
from cadenza.server.runner.cpu_program import load_cpu_program
from cadenza.v1.manifest_pb2 import ModelManifest


class CadenzaEngine:
    """An engine in its thread, with the default settings, speculation apart."""

    def __init__(self, settings: Settings) -> None:
        extra = Path(settings.model) / "assets.extra"
        manifest = json_format.Parse((extra / "manifest.json").read_text(encoding="utf-8"), ModelManifest())
        runner = load_cpu_program(extra / "cpu", manifest, CpuOptions(cache_dir=CACHE / "server"))
        runner.warm_up()
        self._reports: queue.SimpleQueue[StepReport] = queue.SimpleQueue()
        self._engine = Engine(
            runner,
            [b"x"] * manifest.decoder.vocabulary_size,
            options=EngineOptions() if settings.speculates else EngineOptions(speculation_tokens=0),
            clock=time.perf_counter,
            report=self._reports.put,
        )
        threading.Thread(target=self._engine.run, daemon=True).start()

    def complete(self, prompts: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
        """See driver.Engine."""
        completions = [Completion() for _ in prompts]
        begin = time.perf_counter()
        requests = [
            Request(str(index), tuple(prompt), new_tokens, arrival_time=begin)
            for index, prompt in enumerate(prompts)
        ]
        for event in self._events(requests):
            if isinstance(event, Progress):
                completions[int(event.request_id)].extend(event.token_ids, time.perf_counter() - begin)
        return completions

    def logprobs(self, token_ids: TokenIds) -> Sequence[float]:
        """See driver.Engine."""
        request = Request("0", tuple(token_ids), 1, arrival_time=time.perf_counter(), prompt_logprobs=True)
        progress = [event for event in self._events([request]) if isinstance(event, Progress)]
        return [entry.logprob for event in progress for entry in event.prompt_logprobs]

    def _events(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Submits all at once; the events until the last has its answer."""
        for request in requests:
            self._engine.commands.put(Submit(request))
        missing = len(requests)
        while missing:
            for event in self._reports.get().events:
                if isinstance(event, Failed):
                    raise RuntimeError(event.message)  # noqa: TRY004 - an event of the engine
                missing -= isinstance(event, Finished)
                yield event


if __name__ == "__main__":
    serve(CadenzaEngine)
