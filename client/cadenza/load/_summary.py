"""From records to figures. All times are seconds, all formulas stand with their field."""

import dataclasses
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from cadenza.load._record import RequestRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of a sample, interpolated linearly between its sorted values.

    The p-th lies at position (n - 1) * p / 100 of n values, counted from 0: NumPy's "linear" method.
    """

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """How a load went. A distribution is None where no request gives it a value.

    Failed requests count in `errors` alone, but for `duration`.
    """

    requests: int
    """Requests that succeeded."""
    errors: dict[str, int]
    """Requests that failed, by reason."""
    duration: float
    """From the first request's start to the last one's end."""
    tokens: int
    """Generated tokens of all requests that succeeded."""
    tokens_per_second: float
    """tokens / duration."""
    ttft: Percentiles | None
    """Time to first token: arrival of the first message with tokens - start."""
    itl: Percentiles | None
    """Inter-token latency, one value per token after a request's first: see `inter_token_latencies`."""
    tpot: Percentiles | None
    """Time per output token, per request of two tokens or more: (latency - TTFT) / (tokens - 1)."""
    latency: Percentiles | None
    """End to end: end of the stream - start."""


def summarise(records: Iterable[RequestRecord]) -> Summary:
    """The figures of a load. Raises ValueError where there is no record."""
    every = list(records)
    if not every:
        raise ValueError("there are no records to summarise: give the load at least one prompt")
    good = [record for record in every if not record.error]
    duration = max(record.end for record in every) - min(record.start for record in every)
    tokens = sum(record.tokens for record in good)
    return Summary(
        requests=len(good),
        errors=dict(Counter(record.error for record in every if record.error)),
        duration=duration,
        tokens=tokens,
        tokens_per_second=tokens / duration if duration > 0 else 0.0,
        ttft=percentiles([_ttft(record) for record in good if record.messages]),
        itl=percentiles([gap for record in good for gap in inter_token_latencies(record)]),
        tpot=percentiles([_tpot(record) for record in good if record.tokens > 1]),
        latency=percentiles([record.end - record.start for record in good]),
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
    if record.messages:
        gaps.extend([0.0] * (record.messages[0].tokens - 1))
    return gaps


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """The percentiles of a sample; None of an empty one."""
    if not values:
        return None
    sample = values if len(values) > 1 else [values[0]] * 2  # quantiles() wants two values
    cuts = statistics.quantiles(sample, n=100, method="inclusive")
    return Percentiles(cuts[49], cuts[89], cuts[94], cuts[98], statistics.fmean(values))


def _ttft(record: RequestRecord) -> float:
    return record.messages[0].at - record.start


def _tpot(record: RequestRecord) -> float:
    return (record.end - record.start - _ttft(record)) / (record.tokens - 1)
