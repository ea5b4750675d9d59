"""The example for the Gateway API inference extension: its fields, the chart's pods, the server's metrics."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from tests.deploy.chart import ROOT, render
from tests.server.artifacts import write_artifact
from tests.server.live import live_server
from tests.server.scripted_runner import ScriptedRunner

GATEWAY = ROOT / "deploy" / "gateway"
Number = Annotated[int, Field(ge=1, le=65535)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Port(_Strict):
    number: Number


class _Selector(_Strict):
    matchLabels: Annotated[dict[str, str], Field(min_length=1)]  # noqa: N815 Kubernetes' name


class _Picker(_Strict):
    group: str = ""
    kind: str = "Service"
    name: str
    port: _Port
    failureMode: Literal["FailOpen", "FailClose"] = "FailClose"  # noqa: N815 Kubernetes' name


class InferencePoolSpec(_Strict):
    """inference.networking.k8s.io/v1; a picker that is a Service must have its port."""

    selector: _Selector
    targetPorts: Annotated[list[_Port], Field(min_length=1, max_length=8)]  # noqa: N815 Kubernetes' name
    endpointPickerRef: _Picker  # noqa: N815 Kubernetes' name


def _objects() -> dict[str, dict[str, Any]]:
    objects = yaml.safe_load_all((GATEWAY / "inference-pool.yaml").read_text())
    return {one["kind"]: one for one in objects}


def _picker_config() -> dict[str, Any]:
    content = yaml.safe_load((GATEWAY / "endpoint-picker.yaml").read_text())["data"]["config.yaml"]
    found: dict[str, Any] = yaml.safe_load(content)
    return found


def _pool() -> InferencePoolSpec:
    return InferencePoolSpec.model_validate(_objects()["InferencePool"]["spec"])


def test_the_pool_selects_the_pods_of_a_release_of_the_chart() -> None:
    assert _objects()["InferencePool"]["apiVersion"] == "inference.networking.k8s.io/v1"
    release = {"app.kubernetes.io/instance": "smollm"}
    selects = render().one("Deployment")["spec"]["selector"]["matchLabels"]
    assert _pool().selector.matchLabels == {**selects, **release}


def test_the_pools_port_is_the_one_with_openais_api_and_metrics() -> None:
    ports = {port["name"]: port["containerPort"] for port in render().server["ports"]}
    assert [port.number for port in _pool().targetPorts] == [ports["http"]]


def test_the_route_leads_to_the_pool_and_lets_streams_take_their_time() -> None:
    pool, route = _objects()["InferencePool"], _objects()["HTTPRoute"]
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    assert (backend["group"], backend["kind"]) == ("inference.networking.k8s.io", "InferencePool")
    assert backend["name"] == pool["metadata"]["name"]
    assert rule["timeouts"] == {"request": "0s"}


def test_the_pickers_profile_names_plugins_that_it_has() -> None:
    config = _picker_config()
    plugins = {one["type"] for one in config["plugins"]}
    (profile,) = config["schedulingProfiles"]
    assert {one["pluginRef"] for one in profile["plugins"]} <= plugins


async def test_every_metric_that_the_picker_reads_is_one_series_of_a_gauge(tmp_path: Path) -> None:
    (extractor,) = [one for one in _picker_config()["plugins"] if one["type"] == "core-metrics-extractor"]
    (engine,) = extractor["parameters"]["engineConfigs"]
    assert engine["name"] == extractor["parameters"]["defaultEngine"]
    wanted = [name for key, name in engine.items() if key.endswith("Spec") and name]
    assert len(wanted) == 3
    async with live_server(write_artifact(tmp_path / "m" / "1"), ScriptedRunner()) as live:
        _, page = await live.get("/metrics")
    for name in wanted:
        assert f"# TYPE {name} gauge\n" in page
        assert len([line for line in page.splitlines() if line.startswith(f"{name}{{")]) == 1
        assert name in (ROOT / "docs" / "gateway.md").read_text()
