"""All collectors: their names, labels and buckets."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from cadenza.server.errors import Reason
from cadenza.server.metrics.put_off import PutOff
from cadenza.server.metrics.shared_gauge import SharedGauge
from cadenza.server.metrics.weighted_histogram import WeightedHistogram
from cadenza.server.processes import children_resident_bytes

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)
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
_LONG = (*_SHORT, 5, 10, 20, 30, 60, 120, 300, 600)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_SEQUENCES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)


class Metrics:
    """The server's collectors; ModelMetrics is a version's part in them."""

    def __init__(self, registry: CollectorRegistry, *, server_version: str) -> None:
        self._registry = registry
        self.put_off = PutOff(registry)
        self._by_model: list[MetricWrapperBase] = []
        """Those that have series of a model."""
        self._define_gauges()
        self._define_engine_counters()
        self._define_counters()
        self._define_histograms()
        Info("cadenza_build", "The server's version.", registry=registry).info({"version": server_version})
        ProcessCollector(registry=registry)
        Gauge(
            "cadenza_device_processes_resident_memory_bytes",
            "Memory resident in the processes of devices.",
            registry=registry,
        ).set_function(children_resident_bytes)

    def _define_gauges(self) -> None:
        running = self._gauge("cadenza_num_requests_running", "Sequences that run, at the last step's end.")
        self.running = SharedGauge[int](running, sum)
        waiting = self._gauge("cadenza_num_requests_waiting", "Requests whose first step has not begun.")
        self.waiting = SharedGauge[int](waiting, sum)
        usage = self._gauge("cadenza_kv_cache_usage_ratio", "KV blocks in use, at the last step's end.")
        self.kv_usage = SharedGauge[tuple[int, int]](usage, _ratio)
        self.batch_tokens = self._gauge("cadenza_engine_batch_tokens", "Tokens in the last step.")
        self.batch_sequences = self._gauge("cadenza_engine_batch_sequences", "Sequences in the last step.")
        stalled = self._gauge(
            "cadenza_engine_stalled", "1 while a step runs for longer than --watchdog-seconds."
        )
        self.stalled = SharedGauge[int](stalled, lambda all_: max(all_, default=0))
        self._model_info = self._keep(
            Info("cadenza_model", "A version that is served.", ("model", "version"), registry=self._registry)
        )
        self._model_memory = self._keep(
            Gauge(
                "cadenza_model_memory_bytes",
                "What a version that is served takes of its fullest device's memory.",
                ("model", "version"),
                registry=self._registry,
            )
        )
        self.certificate_expiry = Gauge(
            "cadenza_tls_certificate_expiry_timestamp_seconds",
            "When a certificate in use expires, Unix time.",
            ("certificate",),
            registry=self._registry,
        )

    def _define_engine_counters(self) -> None:
        """What the engines of a model did."""
        counter = self._counter
        self.finished = counter(
            "cadenza_requests_finished_total", "Requests answered, by finish reason.", "model", "reason"
        )
        self.choices = counter(
            "cadenza_choices_finished_total", "Choices that ended, by finish reason.", "model", "reason"
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
        self.cached_prompt_tokens = counter(
            "cadenza_cached_prompt_tokens_total",
            "Prompt tokens of finished requests whose KV blocks were there already.",
            "model",
        )
        self.generated_tokens = counter("cadenza_generated_tokens_total", "Tokens generated.", "model")
        self.draft_tokens = counter(
            "cadenza_draft_tokens_total", "Next tokens that were guessed and checked.", "model"
        )
        self.draft_tokens_accepted = counter(
            "cadenza_draft_tokens_accepted_total", "Guessed tokens that were right.", "model"
        )
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
        self.step_failures = counter(
            "cadenza_engine_step_failures_total", "Steps that failed and that the engine survived.", "model"
        )
        self.engine_failures = counter("cadenza_engine_failures_total", "Engines that broke.", "model")
        self._compilations = counter("cadenza_xla_compilations_total", "Programs that XLA compiled.", "model")

    def _define_counters(self) -> None:
        """What calls and the server as a whole did."""
        counter = self._counter
        self.rejected = counter(
            "cadenza_requests_rejected_total", "Calls refused or failed, by reason.", "reason"
        )
        for reason in Reason:  # at 0, so that the first of a kind is seen as an increase
            self.rejected.labels(reason.value)
        self.loads = counter(
            "cadenza_model_loads_total", "Versions that were to be loaded, by result.", "model", "result"
        )
        self.credential_reloads = counter(
            "cadenza_credential_reloads_total",
            "Changed files of certificates or tokens that were read, by result.",
            "kind",
            "result",
        )
        self.http_requests = counter(
            "cadenza_http_requests_total", "Calls of OpenAI's API, by path and status.", "path", "code"
        )
        rpc = ("grpc_type", "grpc_service", "grpc_method")
        self.rpc_started = counter("grpc_server_started_total", "Calls begun.", *rpc)
        self.rpc_handled = counter("grpc_server_handled_total", "Calls ended, by code.", *rpc, "grpc_code")

    def _define_histograms(self) -> None:
        histogram = self._histogram
        self.ttft = histogram(
            "cadenza_time_to_first_token_seconds", "From arrival to the first token.", _LONG
        )
        self.tpot = histogram(
            "cadenza_time_per_output_token_seconds",
            "Decode time over tokens after the first, per choice.",
            _SHORT,
        )
        self.e2e = histogram("cadenza_request_seconds", "From arrival to the last token.", _LONG)
        self.queue = histogram("cadenza_request_queue_seconds", "From arrival to the first step.", _LONG)
        self.prefill = histogram("cadenza_request_prefill_seconds", "From first step to first token.", _LONG)
        self.decode = histogram("cadenza_request_decode_seconds", "From first token to last.", _LONG)
        self.request_prompt = histogram(
            "cadenza_request_prompt_tokens", "Prompt tokens of a request.", _TOKENS
        )
        self.request_generation = histogram(
            "cadenza_request_generation_tokens",
            "Tokens generated for a request, all choices together.",
            _TOKENS,
        )
        self.step = histogram("cadenza_engine_step_seconds", "One engine step, by kind.", _SHORT, "kind")
        self.step_sequences = histogram(
            "cadenza_engine_step_sequences", "Sequences advanced by one step.", _SEQUENCES
        )
        self.itl = WeightedHistogram(
            "cadenza_inter_token_latency_seconds",
            "Between two tokens of a choice.",
            _SHORT,
            self._registry,
        )

    def compiled(self, model: str) -> None:
        """A program was compiled for a model; any thread may say so."""
        self._compilations.labels(model).inc()

    def version_serves(self, model: str, version: int, info: Mapping[str, str], *, memory_bytes: int) -> None:
        """`info` are the labels of cadenza_model_info beside these."""
        self._model_info.labels(model, str(version)).info(dict(info))
        self._model_memory.labels(model, str(version)).set(memory_bytes)

    def version_ended(self, model: str, version: int) -> None:
        """The version serves no more."""
        for metric in (self._model_info, self._model_memory):
            metric.remove(model, str(version))

    def model_ended(self, model: str) -> None:
        """No version of the model is left: its series go."""
        for metric in self._by_model:
            metric.remove_by_labels({"model": model})
        self.itl.remove(model)

    def _gauge(self, name: str, text: str) -> Gauge:
        return self._keep(Gauge(name, text, ("model",), registry=self._registry))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        counter = Counter(name, text, labels, registry=self._registry)
        return self._keep(counter) if "model" in labels else counter

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return self._keep(Histogram(name, text, ("model", *labels), buckets=buckets, registry=self._registry))

    def _keep(self, metric: _Metric) -> _Metric:
        self._by_model.append(metric)
        return metric


def _ratio(shares: Collection[tuple[int, int]]) -> float:
    """Of all used to all there are."""
    total = sum(total for _, total in shares)
    return sum(used for used, _ in shares) / max(1, total)
