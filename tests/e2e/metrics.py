"""Reads a server's /metrics as Prometheus would."""

import urllib.request

from deploy.demo.serving import ServerProcess
from prometheus_client.parser import text_string_to_metric_families


def samples(server: ServerProcess) -> dict[str, float]:
    """Every sample's value, labels left out: sums over them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as response:
        text = response.read().decode()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values
