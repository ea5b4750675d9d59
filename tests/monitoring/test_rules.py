"""The rules and the dashboard: checked by promtool, and of metrics, alerts and objectives that there are."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from deploy.monitoring.check import check_rules, copies_that_differ, faults
from deploy.monitoring.dashboard import (
    RULES_TEST,
    metrics_in,
    queries,
    read_dashboard,
    read_rules,
)
from prometheus_client import CollectorRegistry
from tests.deploy.chart import ROOT, ChartError, render

from cadenza.server.metrics import Metrics

ALERTS = {rule["alert"]: rule for rule in read_rules() if "alert" in rule}


def exported() -> Iterator[str]:
    """The names of all samples that the server may have."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, server_version="1")
    metrics.version_serves("m", 1, {}, memory_bytes=1)
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
    for family in registry.collect():
        yield from (f"{family.name}{ending}" for ending in endings.get(family.type, ("",)))


@pytest.mark.usefixtures("tools")
def test_promtool_has_no_complaint_and_every_rule_passes_its_tests() -> None:
    assert list(check_rules()) == []


def test_the_chart_carries_the_same_files() -> None:
    assert list(copies_that_differ()) == []


def test_the_dashboard_fits_its_grid_and_has_the_variables_that_it_uses() -> None:
    dashboard = read_dashboard()
    assert list(faults(dashboard)) == []
    assert {one["name"]: one["type"] for one in dashboard["templating"]["list"]} == {
        "datasource": "datasource",
        "namespace": "query",
        "job": "query",
        "instance": "query",
        "model": "query",
    }


def test_a_dashboard_that_grafana_would_show_wrongly_is_refused() -> None:
    broken = copy.deepcopy(read_dashboard())
    first, second = [panel for panel in broken["panels"] if panel["type"] != "row"][:2]
    second["gridPos"], second["id"] = first["gridPos"], first["id"]
    second["targets"][0]["expr"] += " > $nosuch"
    second["datasource"] = {"type": "prometheus", "uid": "mine"}
    found = " ".join(faults(broken))
    for complaint in ("share an id", "overlap", "no variable 'nosuch'", "data source"):
        assert complaint in found


def test_rules_and_dashboard_ask_for_metrics_that_the_server_has() -> None:
    asked = {name for rule in read_rules() for name in metrics_in(rule["expr"])}
    asked |= {name for query in queries(read_dashboard()) for name in metrics_in(query.expression)}
    assert len(asked) > 30
    assert asked - set(exported()) == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_to_fire_and_not_to_fire(alert: str) -> None:
    cases = [
        case
        for test in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]
    assert {bool(case.get("exp_alerts")) for case in cases} == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_and_what_to_do(alert: str) -> None:
    assert ALERTS[alert]["labels"]["severity"] in {"warning", "critical"}
    assert set(ALERTS[alert]["annotations"]) == {"summary", "description"}
    assert f"| `{alert}` |" in (ROOT / "docs" / "operate.md").read_text()


def chart_rules(**objectives: Any) -> list[dict[str, Any]]:
    """The rules of the chart with such objectives, of all groups."""
    spec = render(monitoring={"rules": {"enabled": True, "objectives": objectives}}).one("PrometheusRule")[
        "spec"
    ]
    return [rule for group in spec["groups"] for rule in group["rules"]]


def test_the_chart_has_the_same_rules_unless_told_otherwise() -> None:
    assert chart_rules() == read_rules()


def test_the_chart_puts_its_objectives_into_the_rules() -> None:
    changed = chart_rules(
        availability={"budget": 0.005},
        firstToken={"budget": 0.02, "seconds": "0.5"},
        furtherTokens={"budget": 0.03, "seconds": "0.04"},
    )
    differ = [new for new, old in zip(changed, read_rules(), strict=True) if new != old]
    budgets = {rule["labels"]["slo"]: rule["expr"] for rule in differ if "budget" in rule["record"]}
    assert budgets == {
        "availability": "vector(0.005)",
        "first_token": "vector(0.02)",
        "further_tokens": "vector(0.03)",
    }
    others = [rule for rule in differ if "budget" not in rule["record"]]
    assert [rule["record"] for rule in others] == ["cadenza:slo_bad:rate5m"] * 2
    assert ['le="0.5"' in others[0]["expr"], 'le="0.04"' in others[1]["expr"]] == [True, True]


@pytest.mark.parametrize(
    ("objective", "metric"),
    [("firstToken", "time_to_first_token"), ("furtherTokens", "time_per_output_token")],
)
def test_objectives_are_edges_of_the_histograms(objective: str, metric: str) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, server_version="1")
    for histogram in (metrics.ttft, metrics.tpot):
        histogram.labels("m")
    schema = yaml.safe_load((ROOT / "deploy/helm/cadenza/values.schema.json").read_text())
    rules = schema["properties"]["monitoring"]["properties"]["rules"]["properties"]
    properties = rules["objectives"]["properties"]
    allowed = properties[objective]["properties"]["seconds"]["enum"]
    (family,) = [one for one in registry.collect() if one.name == f"cadenza_{metric}_seconds"]
    edges = {sample.labels["le"] for sample in family.samples if "le" in sample.labels}
    assert set(allowed) <= edges


@pytest.mark.parametrize(
    "objectives", [{"firstToken": {"seconds": "0.3"}}, {"availability": {"budget": 99.9}}]
)
def test_an_objective_that_cannot_be_measured_is_refused(objectives: dict[str, Any]) -> None:
    with pytest.raises(ChartError, match="/monitoring/rules/objectives"):
        chart_rules(**objectives)


def test_the_chart_brings_the_dashboard_to_grafanas_sidecar() -> None:
    release = render(monitoring={"dashboard": {"enabled": True, "annotations": {"folder": "Serving"}}})
    found = release.one("ConfigMap", "r-cadenza-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"folder": "Serving"}
    assert yaml.safe_load(found["data"]["cadenza.json"]) == read_dashboard()


def test_the_chart_brings_neither_unless_asked() -> None:
    assert render().all("PrometheusRule") == render().all("ConfigMap") == []
