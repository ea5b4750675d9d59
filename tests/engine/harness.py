"""An engine that a test steps by hand, on the runner with hand-computed tokens."""

import dataclasses
from collections.abc import Sequence

from tests.engine.cache_runner import VOCABULARY, CacheRunner

from cadenza.server.engine.engine import Engine
from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import (
    Cancelled,
    Drain,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
    Request,
    StepReport,
    Submit,
    TokenLogprob,
)

TOKEN_BYTES = [f"{token},".encode() for token in range(VOCABULARY)]


class Harness:
    """The engine, its clock, which moves when told, and everything it has reported."""

    def __init__(self, runner: CacheRunner | None = None, options: EngineOptions | None = None) -> None:
        self.runner = runner or CacheRunner()
        self.reports: list[StepReport] = []
        self.now = 0.0
        self.engine = Engine(
            self.runner,
            TOKEN_BYTES,
            options=options or EngineOptions(),
            clock=lambda: self.now,
            report=self.reports.append,
        )

    def submit(self, name: str, prompt: Sequence[int], max_tokens: int = 5, **options: object) -> Request:
        request = Request(name, tuple(prompt), max_tokens, arrival_time=self.now)
        request = dataclasses.replace(request, **options)  # type: ignore[arg-type]
        self.engine.commands.put(Submit(request))
        return request

    def finish(self) -> None:
        self.engine.commands.put(Drain())
        self.engine.run()

    @property
    def events(self) -> list[Event]:
        return [event for report in self.reports for event in report.events]

    @property
    def blocks_used(self) -> int:
        return self.reports[-1].kv_blocks_used

    def progress(self, name: str, choice: int = 0) -> list[Progress]:
        events = [event for event in self.events if isinstance(event, Progress)]
        return [event for event in events if (event.request_id, event.choice) == (name, choice)]

    def tokens(self, name: str, choice: int = 0) -> list[int]:
        return [token_id for event in self.progress(name, choice) for token_id in event.token_ids]

    def text(self, name: str, choice: int = 0) -> str:
        return "".join(event.text for event in self.progress(name, choice))

    def logprobs(self, name: str, choice: int = 0) -> list[TokenLogprob]:
        return [entry for event in self.progress(name, choice) for entry in event.logprobs]

    def prompt_logprobs(self, name: str) -> list[TokenLogprob]:
        return [entry for event in self.progress(name) for entry in event.prompt_logprobs]

    def finish_reason(self, name: str, choice: int = 0) -> FinishReason:
        (reason,) = [event.finish_reason for event in self.progress(name, choice) if event.finish_reason]
        return reason

    def end(self, name: str) -> Finished | Cancelled | Failed:
        ends = [event for event in self.events if isinstance(event, Finished | Cancelled | Failed)]
        (end,) = [event for event in ends if event.request_id == name]
        return end

    def finished(self, name: str) -> Finished:
        end = self.end(name)
        assert isinstance(end, Finished)
        return end
