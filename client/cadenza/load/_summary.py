"""From records to figures. All times are seconds, all formulas stand with their field."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from cadenza.load._objectives import Objectives
from cadenza.load._percentiles import Percentiles, percentiles
from cadenza.load._record import RequestRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """The part of a load that is measured: from begin to end on its clock, seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin

    def holds(self, at: float) -> bool:
        """Whether a moment lies in it."""
        return self.begin <= at <= self.end


@dataclasses.dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that met all objectives."""

    objectives: Objectives
    requests: int
    """Requests scheduled in the window that succeeded and met every objective."""
    per_second: float
    """requests / duration."""
    share: float
    """requests / all requests scheduled in the window, failed ones too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """How a load went. A distribution is None where no request gives it a value.

    Distributions are of the requests that were scheduled in the window and succeeded, whenever they ended.
    """

    requests: int
    """Requests scheduled in the window that succeeded."""
    errors: dict[str, int]
    """Requests scheduled in the window that failed, by reason."""
    duration: float
    """Length of the window."""
    offered_per_second: float
    """Requests scheduled in the window / duration."""
    completed_per_second: float
    """Requests that succeeded and ended in the window / duration."""
    tokens: int
    """Tokens that arrived in the window, of all requests that succeeded."""
    tokens_per_second: float
    """tokens / duration."""
    prompt_tokens: int
    """Of the requests counted in `requests`, as the server counted them."""
    cached_prompt_tokens: int
    """Those of `prompt_tokens` that the server found in its KV cache."""
    ttft: Percentiles | None
    """Time to first token: first message with tokens - scheduled arrival."""
    itl: Percentiles | None
    """Inter-token latency, one value per token after a request's first: see `inter_token_latencies`."""
    tpot: Percentiles | None
    """Time per output token, per request of two tokens or more: (latency - TTFT) / (tokens - 1)."""
    latency: Percentiles | None
    """End to end: end of the stream - scheduled arrival."""
    queue: Percentiles | None
    """From arrival at the server to the first step, on the server's clock."""
    lag: Percentiles | None
    """Generator lag, of every request scheduled in the window, failed ones too: sent - scheduled arrival."""
    goodput: Goodput | None
    """None where no objectives were given."""


def summarise(
    records: Iterable[RequestRecord], window: Window | None = None, objectives: Objectives | None = None
) -> Summary:
    """The figures of a load; without a window, from the first arrival to the last end.

    Raises ValueError where there is no record, or none that was scheduled in the window.
    """
    every = list(records)
    if not every:
        raise ValueError("there are no records to summarise: give the load at least one prompt")
    span = window or _whole(every)
    inside = [record for record in every if span.holds(record.scheduled)]
    if not inside:
        raise ValueError(
            f"no request was scheduled between {span.begin:g} s and {span.end:g} s: measure for longer"
        )
    good = [record for record in inside if not record.error]
    tokens = _tokens_within(every, span)
    ended = sum(not record.error and span.holds(record.end) for record in every)
    return Summary(
        requests=len(good),
        errors=dict(Counter(record.error for record in inside if record.error)),
        duration=span.seconds,
        offered_per_second=_rate(len(inside), span),
        completed_per_second=_rate(ended, span),
        tokens=tokens,
        tokens_per_second=_rate(tokens, span),
        prompt_tokens=sum(record.prompt_tokens for record in good),
        cached_prompt_tokens=sum(record.cached_tokens for record in good),
        ttft=percentiles([record.ttft for record in good if record.ttft is not None]),
        itl=percentiles([gap for record in good for gap in inter_token_latencies(record)]),
        tpot=percentiles([record.tpot for record in good if record.tpot is not None]),
        latency=percentiles([record.latency for record in good]),
        queue=percentiles([record.queue for record in good if record.queue is not None]),
        lag=percentiles([record.lag for record in inside]),
        goodput=_goodput(inside, span, objectives),
    )


def inter_token_latencies(record: RequestRecord) -> list[float]:
    """The time between each token and the one before it, seconds; tokens - 1 values.

    A token arrives when its message does. So for a message that brings k tokens, the first of them has the
    time since the message before, and the k - 1 others 0; of the first message only those others count.
    The values of a request add up to the time from its first to its last message.
    """
    gaps: list[float] = []
    for before, message in itertools.pairwise(record.messages):
        gaps.append(message.at - before.at)
        gaps.extend([0.0] * (message.tokens - 1))
    gaps.extend([0.0] * (record.tokens - 1 - len(gaps)))
    return gaps


def _whole(records: Sequence[RequestRecord]) -> Window:
    return Window(min(record.scheduled for record in records), max(record.end for record in records))


def _tokens_within(records: Iterable[RequestRecord], window: Window) -> int:
    return sum(
        message.tokens
        for record in records
        if not record.error
        for message in record.messages
        if window.holds(message.at)
    )


def _goodput(
    inside: Sequence[RequestRecord], window: Window, objectives: Objectives | None
) -> Goodput | None:
    if objectives is None:
        return None
    met = sum(map(objectives.met_by, inside))
    return Goodput(objectives, met, _rate(met, window), met / len(inside))


def _rate(count: int, window: Window) -> float:
    return count / window.seconds if window.seconds > 0 else 0.0
