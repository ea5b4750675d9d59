"""Counting that is done later: some steps at once cost a fraction of what they cost one by one."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector


class PutOff(Collector):
    """Catches up before a registry is read. It is to be registered first: a registry asks in that order."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._catch_ups: set[Callable[[], None]] = set()
        registry.register(self)

    def add(self, catch_up: Callable[[], None]) -> None:
        """`catch_up` counts what was put off."""
        self._catch_ups.add(catch_up)

    def remove(self, catch_up: Callable[[], None]) -> None:
        """Nothing is put off there any more."""
        self._catch_ups.discard(catch_up)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry; has no metric of its own."""
        for catch_up in self._catch_ups:
            catch_up()
        return ()
