"""The chart as helm renders it."""

import dataclasses
import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from deploy.setup.helm import ensure_helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "cadenza"
Object = dict[str, Any]


class ChartError(Exception):
    """Helm did not render the chart; the message is what it said."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """The objects of one release named `r` in the namespace `n`."""

    objects: tuple[Object, ...]

    def one(self, kind: str, name: str | None = None) -> Object:
        """The only object of a kind, or the one of that name."""
        (found,) = [item for item in self.all(kind) if name in (None, item["metadata"]["name"])]
        return found

    def all(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    @property
    def pod(self) -> Object:
        """The server pods' spec."""
        spec: Object = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def server(self) -> Object:
        """The server's container."""
        (container,) = self.pod["containers"]
        found: Object = container
        return found

    def pod_specs(self) -> list[Object]:
        """Of every object that makes pods, and of pods."""
        specs = [item["spec"]["template"]["spec"] for item in (*self.all("Deployment"), *self.all("Job"))]
        return [*specs, *(item["spec"] for item in self.all("Pod"))]


def render(**values: Any) -> Rendered:
    """Renders the chart with values by top-level name. Raises ChartError."""
    return _render(json.dumps(values, sort_keys=True))


@functools.cache
def _render(values: str) -> Rendered:
    done = helm("template", "r", str(CHART), "--namespace", "n", "--values", "-", given=values)
    return Rendered(tuple(item for item in yaml.safe_load_all(done) if item))


def helm(*arguments: str, given: str = "") -> str:
    """Runs helm; gives its stdout. Raises ChartError."""
    command = [str(ensure_helm()), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise ChartError(done.stdout + done.stderr)
    return done.stdout
