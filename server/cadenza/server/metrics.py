"""Every metric of the server, on an injected registry; docs/metrics.md is the table for users.

Observed on the loop's thread, once per step and once per request, never once per token: the engine's thread
waits for the same lock.
"""

import bisect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from cadenza.server.engine.request import FailureCause, Finished, FinishReason, StepReport

_T = TypeVar("_T")
_Metric = TypeVar("_Metric", bound=MetricWrapperBase)
_LABEL = ("model",)
# Seconds, from half a millisecond, with exact edges at the usual objectives.
_SHORT = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.007,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.08,
    0.1,
    0.2,
    0.45,
    0.5,
    1,
    2,
)
_LONG = (*_SHORT[4:], 5, 10, 20, 30, 60, 120, 300, 600)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_SEQUENCES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)


class WeightedHistogram(Collector):
    """A histogram that takes a value many times at once, for one thread. Labelled by model."""

    def __init__(
        self, name: str, documentation: str, bounds: Iterable[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(float(bound) for bound in bounds)
        self._series: dict[str, WeightedSeries] = {}
        registry.register(self)

    def series(self, model: str) -> "WeightedSeries":
        """The series of one model."""
        return self._series.setdefault(model, WeightedSeries(self._bounds))

    def remove(self, model: str) -> None:
        """Drops a model's series."""
        self._series.pop(model, None)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Called by the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=_LABEL)
        for model, series in self._series.items():
            family.add_metric([model], series.buckets(), series.sum)
        yield family


class WeightedSeries:
    """One model's values in a WeightedHistogram."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Counts `value` `count` times."""
        self._counts[bisect.bisect_left(self._bounds, value)] += count
        self.sum += value * count

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition format wants them."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets


class SharedGauge(Generic[_T]):
    """A gauge to which several versions of a model contribute. Labelled by model."""

    def __init__(self, gauge: Gauge, combine: Callable[[Collection[_T]], float]) -> None:
        """`combine` makes the gauge's value of what the versions say."""
        self._gauge = gauge
        self._combine = combine
        self._shares: dict[str, dict[GaugeShare[_T], _T]] = {}

    def share(self, model: str) -> "GaugeShare[_T]":
        """One version's part in the gauge."""
        return GaugeShare(self, model)

    def change(self, model: str, share: "GaugeShare[_T]", value: _T | None) -> None:
        """Takes in what a version says; None: it says nothing any more."""
        shares = self._shares.setdefault(model, {})
        shares.pop(share, None)
        if value is not None:
            shares[share] = value
        if not shares:
            del self._shares[model]
        self._gauge.labels(model).set(self._combine(shares.values()))


class GaugeShare(Generic[_T]):
    """One version's part in a SharedGauge."""

    def __init__(self, gauge: SharedGauge[_T], model: str) -> None:
        self._gauge = gauge
        self._model = model
        self._dropped = False

    def set(self, value: _T) -> None:
        """What the version says now."""
        if not self._dropped:
            self._gauge.change(self._model, self, value)

    def drop(self) -> None:
        """The version has ended; what it says from now on does not count."""
        if not self._dropped:
            self._gauge.change(self._model, self, None)
        self._dropped = True


class Metrics:
    """The server's collectors. `for_model` gives a version's part in them, its labels already resolved."""

    def __init__(self, registry: CollectorRegistry, *, server_version: str) -> None:
        self.registry = registry
        self._by_model: list[MetricWrapperBase] = []
        """Those that have series of a model."""
        self._gauges(registry)
        self._counters(registry)
        self._histograms(registry)
        Info("cadenza_build", "The server's version.", registry=registry).info({"version": server_version})

    def _gauges(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return self._keep(Gauge(name, text, _LABEL, registry=registry))

        name = "cadenza_num_requests_running"
        self.running = SharedGauge[int](gauge(name, "Sequences with KV blocks, at the last step's end."), sum)
        name = "cadenza_num_requests_waiting"
        self.waiting = SharedGauge[int](gauge(name, "Requests whose first step has not begun."), sum)
        name = "cadenza_kv_cache_usage_ratio"
        self.kv_usage = SharedGauge[tuple[int, int]](
            gauge(name, "Share of KV blocks in use, at the last step's end."), _ratio
        )
        self.batch_tokens = gauge("cadenza_engine_batch_tokens", "Tokens in the last step.")
        self.batch_sequences = gauge("cadenza_engine_batch_sequences", "Sequences in the last step.")
        name = "cadenza_engine_stalled"
        self.stalled = SharedGauge[int](
            gauge(name, "1 while a step runs for longer than --watchdog-seconds."),
            lambda all_: max(all_, default=0),
        )
        labels = ("model", "version")
        self._model_info = self._keep(
            Info("cadenza_model", "A version that is served.", labels, registry=registry)
        )

        self.certificate_expiry = Gauge(
            "cadenza_tls_certificate_expiry_timestamp_seconds",
            "When a certificate in use expires, Unix time.",
            ("certificate",),
            registry=registry,
        )

    def _counters(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(name, text, labels, registry=registry)
            return self._keep(made) if "model" in labels else made

        self.finished = counter("cadenza_requests_finished_total", "Requests answered.", "model")
        self.choices = counter(
            "cadenza_choices_finished_total", "Choices that ended, by finish reason.", "model", "reason"
        )
        self.rejected = counter(
            "cadenza_requests_rejected_total", "Calls refused or failed, by reason.", "reason"
        )
        self.cancelled = counter(
            "cadenza_requests_cancelled_total",
            "Requests that ended without an answer, by stage reached and cause.",
            "model",
            "stage",
            "cause",
        )
        self.failed = counter(
            "cadenza_requests_failed_total", "Requests that the engine failed, by cause.", "model", "cause"
        )
        self.prompt_tokens = counter(
            "cadenza_prompt_tokens_total", "Prompt tokens of finished requests.", "model"
        )
        self.generated_tokens = counter("cadenza_generated_tokens_total", "Tokens generated.", "model")
        self.preemptions = counter(
            "cadenza_preemptions_total", "Sequences preempted for want of blocks.", "model"
        )
        self.prefix_queried = counter(
            "cadenza_prefix_cache_queried_tokens_total",
            "Prompt tokens looked up in the prefix cache.",
            "model",
        )
        self.prefix_hit = counter(
            "cadenza_prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache.", "model"
        )
        self.steps = counter("cadenza_engine_steps_total", "Engine steps that ran tokens.", "model")
        self._compilations = counter("cadenza_xla_compilations_total", "Programs that XLA compiled.", "model")
        self.loads = counter(
            "cadenza_model_loads_total", "Versions that were to be loaded, by result.", "model", "result"
        )
        self.engine_failures = counter("cadenza_engine_failures_total", "Engines that broke.", "model")
        self.credential_reloads = counter(
            "cadenza_credential_reloads_total",
            "Changed files of certificates or tokens that were read, by result.",
            "kind",
            "result",
        )
        rpc = ("grpc_type", "grpc_service", "grpc_method")
        self.http_requests = counter(
            "cadenza_http_requests_total", "Calls of OpenAI's API, by path and status.", "path", "code"
        )
        self.rpc_started = counter("grpc_server_started_total", "Calls begun.", *rpc)
        self.rpc_handled = counter("grpc_server_handled_total", "Calls ended, by code.", *rpc, "grpc_code")

    def _histograms(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return self._keep(Histogram(name, text, _LABEL, buckets=buckets, registry=registry))

        name = "cadenza_time_to_first_token_seconds"
        self.ttft = histogram(name, "From arrival to the first token.", _LONG)
        name = "cadenza_time_per_output_token_seconds"
        self.tpot = histogram(name, "Decode time over tokens after the first, per choice.", _SHORT)
        self.e2e = histogram("cadenza_request_seconds", "From arrival to the last token.", _LONG)
        self.queue = histogram("cadenza_request_queue_seconds", "From arrival to the first step.", _LONG)
        self.prefill = histogram("cadenza_request_prefill_seconds", "From first step to first token.", _LONG)
        self.step = histogram("cadenza_engine_step_seconds", "One engine step.", _SHORT)
        self.request_prompt = histogram(
            "cadenza_request_prompt_tokens", "Prompt tokens of a request.", _TOKENS
        )
        name = "cadenza_request_generation_tokens"
        self.request_generation = histogram(
            name, "Tokens generated for a request, all choices together.", _TOKENS
        )
        name = "cadenza_engine_step_sequences"
        self.step_sequences = histogram(name, "Sequences advanced by one step.", _SEQUENCES)
        name = "cadenza_inter_token_latency_seconds"
        self.itl = WeightedHistogram(name, "Between two tokens of a choice.", _SHORT, registry)

    def for_model(self, model: str) -> "ModelMetrics":
        """The metrics of one version of a model; what several versions say is shown as one."""
        return ModelMetrics(self, model)

    def compiled(self, model: str) -> None:
        """A program was compiled for a model; any thread may say so."""
        self._compilations.labels(model).inc()

    def version_serves(self, model: str, version: int, info: Mapping[str, str]) -> None:
        """`info` are the labels of cadenza_model_info beside these."""
        self._model_info.labels(model, str(version)).info(dict(info))

    def version_ended(self, model: str, version: int) -> None:
        """The version serves no more."""
        self._model_info.remove(model, str(version))

    def model_ended(self, model: str) -> None:
        """No version of the model is left: its series go."""
        for metric in self._by_model:
            metric.remove_by_labels({"model": model})
        self.itl.remove(model)

    def _keep(self, metric: _Metric) -> _Metric:
        self._by_model.append(metric)
        return metric


class ModelMetrics:
    """One version's part in its model's series, found once: looking labels up costs more than counting."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._running = metrics.running.share(model)
        self._waiting = metrics.waiting.share(model)
        self._kv_usage = metrics.kv_usage.share(model)
        self._batch_tokens = metrics.batch_tokens.labels(model)
        self._batch_sequences = metrics.batch_sequences.labels(model)
        self._generated_tokens = metrics.generated_tokens.labels(model)
        self._preemptions = metrics.preemptions.labels(model)
        self._prefix_queried = metrics.prefix_queried.labels(model)
        self._prefix_hit = metrics.prefix_hit.labels(model)
        self._stalled = metrics.stalled.share(model)
        self._steps = metrics.steps.labels(model)
        self._step = metrics.step.labels(model)
        self._step_sequences = metrics.step_sequences.labels(model)
        self._itl = metrics.itl.series(model)
        for share in (self._running, self._waiting, self._stalled):
            share.set(0)
        self._kv_usage.set((0, 1))

    def end(self) -> None:
        """The version has no engine any more; what it counted stays."""
        for share in (self._running, self._waiting, self._kv_usage, self._stalled):
            share.drop()

    def step(
        self,
        report: StepReport,
        generated_tokens: int,
        intervals: Mapping[float, int],
        others: Sequence[StepReport] = (),
    ) -> None:
        """One step; `intervals` counts the sequences by seconds since their token before.

        `others` are the last reports of the model's other engines.
        """
        last = (report, *others)
        self._running.set(sum(one.running for one in last))
        used, total = (sum(one.kv_blocks_used for one in last), sum(one.kv_blocks_total for one in last))
        self._kv_usage.set((used, total))
        if report.preemptions:
            self._preemptions.inc(report.preemptions)
        if report.prompt_tokens_looked_up:
            self._prefix_queried.inc(report.prompt_tokens_looked_up)
            self._prefix_hit.inc(report.prompt_tokens_cached)
        if report.batch_tokens:
            self._steps.inc()
            self._step.observe(report.duration)
            self._batch_tokens.set(report.batch_tokens)
            self._batch_sequences.set(report.batch_sequences)
            self._step_sequences.observe(report.batch_sequences)
        if generated_tokens:
            self._generated_tokens.inc(generated_tokens)
        for seconds, count in intervals.items():
            self._itl.observe(seconds, count)

    def waiting(self, requests: int) -> None:
        """Requests whose first step has not begun."""
        self._waiting.set(requests)

    def choice_finished(self, reason: FinishReason) -> None:
        """A choice has ended."""
        self._metrics.choices.labels(self._model, reason.value).inc()

    def finished(self, event: Finished, choices: int) -> None:
        """A request has its answer, of so many choices."""
        metrics, model, timing = self._metrics, self._model, event.timing
        metrics.finished.labels(model).inc()
        metrics.prompt_tokens.labels(model).inc(event.prompt_tokens)
        metrics.request_prompt.labels(model).observe(event.prompt_tokens)
        metrics.request_generation.labels(model).observe(event.completion_tokens)
        metrics.queue.labels(model).observe(timing.first_step - timing.arrival)
        metrics.prefill.labels(model).observe(timing.first_token - timing.first_step)
        metrics.ttft.labels(model).observe(timing.first_token - timing.arrival)
        metrics.e2e.labels(model).observe(timing.last_token - timing.arrival)
        if event.completion_tokens > choices:
            decode = timing.last_token - timing.first_token
            metrics.tpot.labels(model).observe(decode * choices / (event.completion_tokens - choices))

    def cancelled(self, stage: str, cause: str) -> None:
        """A request ended unanswered; stage is queue, prefill or decode, cause client, deadline or drain."""
        self._metrics.cancelled.labels(self._model, stage, cause).inc()

    def failed(self, cause: FailureCause) -> None:
        """The engine failed a request and goes on."""
        self._metrics.failed.labels(self._model, cause.value).inc()

    def stalled(self, stalled: bool) -> None:
        """Whether a step runs for longer than it may."""
        self._stalled.set(int(stalled))

    def engine_failed(self) -> None:
        """The model's engine broke."""
        self._metrics.engine_failures.labels(self._model).inc()


def _ratio(shares: Collection[tuple[int, int]]) -> float:
    """Of all used to all there are."""
    total = sum(total for _, total in shares)
    return sum(used for used, _ in shares) / max(1, total)
