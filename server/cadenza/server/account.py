"""Where the time of one request went: told of as it goes on, exact once it has finished."""

import dataclasses

from cadenza.server.engine.request import Admitted, Finished, FinishReason, Progress, Request


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """A part of a request's time: queue, prefill or decode. Seconds on the engine's clock."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


@dataclasses.dataclass(slots=True)
class Account:
    """What is known of a request. Times are seconds on the engine's clock, None before they are known.

    While it runs, a token's time is that of its step's report; `finish` brings the times of the response.
    """

    request: Request
    first_step: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    completion_tokens: int = 0
    """Of all choices."""
    cached_prompt_tokens: int = 0
    preemptions: int = 0
    """How often one of its choices was preempted."""
    finish_reasons: list[FinishReason] = dataclasses.field(default_factory=list)
    """Of the choices that have ended, in the order in which they did."""
    finished: bool = False

    @property
    def stage(self) -> str:
        """How far it has come: queue, prefill or decode."""
        if self.first_step is None:
            return "queue"
        return "prefill" if self.first_token is None else "decode"

    @property
    def finish_reason(self) -> str:
        """That of its choices, `mixed` where they ended for different reasons."""
        first = self.finish_reasons[0]
        return first.value if all(reason is first for reason in self.finish_reasons) else "mixed"

    def admit(self, event: Admitted) -> None:
        """Its first step has begun."""
        self.first_step = event.time
        self.cached_prompt_tokens = event.cached_prompt_tokens

    def advance(self, event: Progress, now: float) -> None:
        """A step that ended at `now` brought this."""
        if event.token_ids:
            if self.first_token is None:
                self.first_token = now
            self.last_token = now
            self.completion_tokens += len(event.token_ids)
        if event.finish_reason is not None:
            self.finish_reasons.append(event.finish_reason)

    def finish(self, event: Finished) -> None:
        """The request has its answer."""
        timing = event.timing
        self.first_step = timing.first_step
        self.first_token = timing.first_token
        self.last_token = timing.last_token
        self.finished = True

    def seconds(self, now: float) -> float:
        """From its arrival to its end, or to `now` where it has no answer."""
        return self._end(now) - self.request.arrival_time

    def phases(self, now: float) -> list[Phase]:
        """Those that it has reached, without gaps from its arrival to its end; it has ended by `now`."""
        begins = [
            (name, begin)
            for name, begin in (
                ("queue", self.request.arrival_time),
                ("prefill", self.first_step),
                ("decode", self.first_token),
            )
            if begin is not None
        ]
        ends = [begin for _, begin in begins[1:]] + [self._end(now)]
        return [Phase(name, begin, end) for (name, begin), end in zip(begins, ends, strict=True)]

    def _end(self, now: float) -> float:
        return self.last_token if self.finished and self.last_token is not None else now
