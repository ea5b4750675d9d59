"""The dashboard's panels and the rules' expressions, as checks and tests read them."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
DASHBOARD: Final = FOLDER / "dashboard.json"
RULES: Final = FOLDER / "rules.yaml"
RULES_TEST: Final = FOLDER / "rules_test.yaml"
CHART_FILES: Final = FOLDER.parent / "helm" / "cadenza" / "files"
"""Helm reads no file outside of its chart: copies lie there."""

_METRIC: Final = re.compile(r"\b((?:cadenza|grpc_server|process)_[a-z_]+)\b")


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel."""

    panel: str
    """The panel's title."""
    expression: str
    """As in the dashboard, with its variables."""

    def filled_in(self, variables: Mapping[str, str]) -> str:
        """The expression with values in the places of variables."""
        return re.sub(r"\$(\w+)", lambda found: variables[found[1]], self.expression)


def read_dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def queries(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    """Every query of every panel."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield Query(panel["title"], target["expr"])


def read_rules() -> list[dict[str, Any]]:
    """All rules, of whatever group."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics_in(expression: str) -> set[str]:
    """The names of the server's metrics in an expression."""
    return set(_METRIC.findall(expression))
