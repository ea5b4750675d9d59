"""A gauge that shows one value for all versions of a model."""

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from prometheus_client import Gauge

_T = TypeVar("_T")


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
        self._value: _T | None = None
        self._dropped = False

    def set(self, value: _T) -> None:
        """What the version says now. Most steps say what the one before said: that costs nothing."""
        if not self._dropped and value != self._value:
            self._value = value
            self._gauge.change(self._model, self, value)

    def drop(self) -> None:
        """The version has ended; what it says from now on does not count."""
        if not self._dropped:
            self._gauge.change(self._model, self, None)
        self._dropped = True
