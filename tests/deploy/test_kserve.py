"""The KServe examples: containers that Kubernetes takes, and flags that the server takes."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from tests.deploy.chart import ROOT, render

from cadenza.server.config import Settings


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "kserve" / f"{name}.yaml").read_text())
    return found


def test_the_runtimes_containers_make_a_valid_pod() -> None:
    spec = example("serving-runtime")["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": spec["containers"], "volumes": spec["volumes"]},
    }
    for version in ("1.29", "1.37"):
        assert kubernetes_validate.validate(pod, version, strict=True) == version


def test_the_runtime_starts_the_server_as_the_chart_does() -> None:
    (container,) = example("serving-runtime")["spec"]["containers"]
    chart = Settings.from_command_line(render().server["args"])
    assert Settings.from_command_line(container["args"]) == chart.model_copy(
        update={"models": Path("/mnt/models")}
    )
    assert container["image"] == render().server["image"]


def test_the_service_names_the_runtime_and_a_format_of_it() -> None:
    runtime, service = example("serving-runtime"), example("inference-service")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [(one["name"], one["version"]) for one in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_the_service_gives_the_drain_its_time() -> None:
    grace = example("inference-service")["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert grace == render().pod["terminationGracePeriodSeconds"]
