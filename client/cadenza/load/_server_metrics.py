"""The server's own view of a load, from its /metrics: batch and queue over time, and its own latencies."""

import asyncio
import contextlib
import dataclasses
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Final

DEFAULT_PORT: Final = 8501
PERIOD_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 5.0
_MAX_BYTES: Final = 4 * 1024 * 1024
_SAMPLE: Final = re.compile(r"^(cadenza_\w+)(?:\{.*\})? (\S+)$", re.MULTILINE)
_GAUGES: Final = {
    "running": "cadenza_num_requests_running",
    "waiting": "cadenza_num_requests_waiting",
    "batch_sequences": "cadenza_engine_batch_sequences",
    "batch_tokens": "cadenza_engine_batch_tokens",
    "kv_cache_usage": "cadenza_kv_cache_usage_ratio",
}
_MEANS: Final = {
    "ttft": "cadenza_time_to_first_token_seconds",
    "tpot": "cadenza_time_per_output_token_seconds",
    "latency": "cadenza_request_seconds",
    "queue": "cadenza_request_queue_seconds",
}


class MetricsError(Exception):
    """The server's metrics could not be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSample:
    """The server at one moment; docs/metrics.md says what each gauge means."""

    at: float
    """Seconds, on time.perf_counter while it polls and on the load's clock afterwards."""
    running: float
    waiting: float
    batch_sequences: float
    batch_tokens: float
    kv_cache_usage: float


@dataclasses.dataclass(frozen=True, slots=True)
class ServerMeans:
    """Means over the requests that finished during the load, warm-up included, from the server's histograms.

    Seconds; None where none finished.
    """

    requests: int
    ttft: float | None
    tpot: float | None
    latency: float | None
    queue: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class ServerView:
    """A load as the server saw it."""

    samples: tuple[ServerSample, ...]
    means: ServerMeans


class MetricsPoll:
    """Reads /metrics once a second, from `start` to `stop`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._begin: Mapping[str, float] = {}
        self._end: Mapping[str, float] = {}
        self._samples: list[ServerSample] = []
        self._polling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises MetricsError where the page cannot be read."""
        self._begin = self._end = await asyncio.to_thread(read_metrics, self._url)
        self._polling = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Reads once more and ends."""
        if self._polling is not None:
            self._polling.cancel()
        await self._read()

    def view(self, begin: float) -> ServerView:
        """What was seen between `start` and `stop`; `begin` is the load's begin on time.perf_counter."""
        means = ServerMeans(
            requests=round(self._gained(_MEANS["latency"] + "_count")),
            **{name: self._mean(metric) for name, metric in _MEANS.items()},
        )
        samples = (dataclasses.replace(sample, at=sample.at - begin) for sample in self._samples)
        return ServerView(tuple(samples), means)

    def _mean(self, metric: str) -> float | None:
        count = self._gained(metric + "_count")
        return self._gained(metric + "_sum") / count if count else None

    def _gained(self, sample: str) -> float:
        return self._end.get(sample, 0.0) - self._begin.get(sample, 0.0)

    async def _poll(self) -> None:
        while True:
            await self._read()
            await asyncio.sleep(PERIOD_SECONDS)

    async def _read(self) -> None:
        """A page that cannot be read leaves a gap: the load is worth its report without it."""
        with contextlib.suppress(MetricsError):
            self._end = await asyncio.to_thread(read_metrics, self._url)
            gauges = {name: self._end.get(metric, 0.0) for name, metric in _GAUGES.items()}
            self._samples.append(ServerSample(time.perf_counter(), **gauges))


def metrics_url(target: str) -> str:
    """Where a server with default ports has its metrics."""
    host = urllib.parse.urlsplit(f"//{target.rpartition('///')[2]}").hostname or "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{DEFAULT_PORT}/metrics"


def read_metrics(url: str) -> dict[str, float]:
    """Cadenza's samples by name, summed over their labels. Raises MetricsError."""
    if not url.startswith(("http://", "https://")):
        raise MetricsError(f"{url!r} is no http:// or https:// address")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 - checked above
            text = response.read(_MAX_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise MetricsError(f"cannot read {url}: {error}") from None
    values: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        try:
            values[name] = values.get(name, 0.0) + float(value)
        except ValueError:
            continue
    return values
