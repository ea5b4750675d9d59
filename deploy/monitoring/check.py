"""`python -m deploy.monitoring.check`: the dashboard's shape, the rules and their tests, the chart's copies.

Part of `make check`. With --copy it copies to the chart instead.
"""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.demo.packages import FetchError
from deploy.monitoring.dashboard import CHART_FILES, DASHBOARD, RULES, RULES_TEST, queries, read_dashboard
from deploy.setup.prometheus import ensure_prometheus

_COPIED = (DASHBOARD, RULES)
_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit status."""
    if arguments == ["--copy"]:
        CHART_FILES.mkdir(exist_ok=True)
        for path in _COPIED:
            shutil.copy(path, CHART_FILES)
        return 0
    try:
        complaints = [*copies_that_differ(), *faults(read_dashboard()), *check_rules()]
    except (FetchError, OSError, ValueError) as error:
        complaints = [str(error)]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def copies_that_differ() -> Iterator[str]:
    """Complaints about the chart's copies."""
    for path in _COPIED:
        copy = CHART_FILES / path.name
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            yield f"{copy} is not {path}: run `python -m deploy.monitoring.check --copy`"


def faults(dashboard: Mapping[str, Any]) -> Iterator[str]:
    """Complaints about panels: what Grafana would show wrongly, or not at all."""
    panels = dashboard["panels"]
    names = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    if len({panel["id"] for panel in panels}) != len(panels):
        yield "panels share an id"
    for one, other in itertools.combinations(panels, 2):
        if _overlap(one["gridPos"], other["gridPos"]):
            yield f"panels overlap: {one['title']} and {other['title']}"
    for panel in panels:
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > _COLUMNS:
            yield f"{panel['title']}: wider than the grid"
        if panel["type"] != "row" and panel["datasource"] != _DATASOURCE:
            yield f"{panel['title']}: its data source is not the variable"
    for query in queries(dashboard):
        try:
            query.filled_in(dict.fromkeys(names, "1"))
        except KeyError as error:
            yield f"{query.panel}: there is no variable {error}"


def check_rules() -> Iterator[str]:
    """Complaints of promtool about the rules, and about tests of theirs that fail. Raises FetchError."""
    promtool = ensure_prometheus() / "promtool"
    for command in (
        ["check", "rules", "--lint=all", "--lint-fatal", str(RULES)],
        ["test", "rules", str(RULES_TEST)],
    ):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield done.stdout + done.stderr


def _overlap(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
