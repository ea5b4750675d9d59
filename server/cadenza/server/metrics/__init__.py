"""Every metric of the server, on an injected registry; docs/metrics.md is the table for users.

Observed on the loop's thread, some steps at a time and once per request, never once per token: the engine's
thread waits for the same lock.
"""

from cadenza.server.metrics.collectors import Metrics
from cadenza.server.metrics.model_metrics import ModelMetrics
from cadenza.server.metrics.shared_gauge import GaugeShare, SharedGauge
from cadenza.server.metrics.weighted_histogram import WeightedHistogram, WeightedSeries

__all__ = [
    "GaugeShare",
    "Metrics",
    "ModelMetrics",
    "SharedGauge",
    "WeightedHistogram",
    "WeightedSeries",
]
