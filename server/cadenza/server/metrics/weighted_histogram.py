"""A histogram that takes a value many times at once: the tokens of one step came after the same time."""

import bisect
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class WeightedHistogram(Collector):
    """Labelled by model; for one thread."""

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
        family = HistogramMetricFamily(self._name, self._documentation, labels=("model",))
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
