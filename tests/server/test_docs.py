"""The tables for users name everything that there is."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from cadenza.server.errors import Reason
from cadenza.server.metrics import Metrics, ModelMetrics

DOCS = Path(__file__).parents[2] / "docs"


def test_every_reason_is_in_the_table_of_errors() -> None:
    text = (DOCS / "errors.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


def test_every_metric_is_in_the_table_of_metrics() -> None:
    text = (DOCS / "metrics.md").read_text()
    registry = CollectorRegistry()
    metrics = Metrics(registry, server_version="1")
    ModelMetrics(metrics, "m")
    metrics.version_serves("m", 1, {}, memory_bytes=1)
    names = [
        f"{one.name}{ {'counter': '_total', 'info': '_info'}.get(one.type, '') }"
        for one in registry.collect()
    ]
    assert len(names) > 20
    assert [name for name in names if f"`{name}`" not in text] == []
