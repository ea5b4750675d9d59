"""The chart: valid on every Kubernetes it names, and what operators rely on is in what it renders."""

import json
import tomllib
from typing import Any

import kubernetes_validate
import pytest
from tests.deploy.chart import CHART, ROOT, ChartError, Rendered, helm, render

from cadenza.server.config import Settings

KUBERNETES = [f"1.{minor}" for minor in range(29, 38)]
CUSTOM = {"PrometheusRule", "ServiceMonitor", "ScaledObject"}
"""Kinds of operators: Kubernetes has no schemas of them."""
KINDS = {
    "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "NetworkPolicy", "PersistentVolumeClaim",
    "Pod", "PodDisruptionBudget", "Service", "ServiceAccount",
}  # fmt: skip

EXPORT = {
    "source": "export",
    "export": {"image": "exporter", "path": "smol.gguf", "claim": "sources", "name": "smol", "version": 3},
}
VALUES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {"profile": "gpu", "models": {"source": "fetch", "fetch": {"image": "f", "command": ["get"]}}},
    "tpu": {"profile": "tpu", "profiles": {"tpu": {"topology": "2x4", "privileged": True}}, "models": EXPORT},
    "all": {
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["pull"]},
        "models": {"source": "image"},
        "tls": {"enabled": True, "secretName": "tls", "clientCertificates": True},
        "auth": {"enabled": True, "secretName": "tokens"},
        "testClient": {"tlsSecretName": "client", "tokenSecretName": "token"},
        "autoscaling": {"mode": "hpa"},
        "monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "rules", "dashboard")},
        "loadTest": {"enabled": True},
        "server": {
            "flags": {"prefix-cache": False, "client-weight": ["a=2", "b=3"], "max-queue-bytes": 67108864}
        },
        "tolerations": [{"key": "t", "operator": "Exists"}],
        "priorityClassName": "high",
    },
    "keda": {"autoscaling": {"mode": "keda"}, "cache": {"existingClaim": "cache"}},
}


@pytest.fixture(params=VALUES)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(**VALUES[request.param])


def values_of(container: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container.get("env", [])}


@pytest.mark.parametrize("name", VALUES)
def test_helm_lints_it_without_a_complaint(name: str) -> None:
    helm("lint", "--strict", str(CHART), "--values", "-", given=json.dumps(VALUES[name]))


def test_every_object_is_valid_strictly_on_every_kubernetes() -> None:
    objects = {json.dumps(item) for values in VALUES.values() for item in render(**values).objects}
    checked = [json.loads(item) for item in objects]
    checked = [item for item in checked if item["kind"] not in CUSTOM]
    assert {item["kind"] for item in checked} >= KINDS
    for version in KUBERNETES:
        for item in checked:
            assert kubernetes_validate.validate(item, version, strict=True) == version


def test_the_validation_finds_a_misspelt_field() -> None:
    item = json.loads(json.dumps(render().one("Deployment")))
    item["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, KUBERNETES[-1], strict=True)


def test_chart_and_distribution_have_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\nappVersion: {version}\n" in (CHART / "Chart.yaml").read_text()


def test_the_server_reads_every_flag(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in values_of(rendered.server).items():
        monkeypatch.setenv(name, "4" if name == "CADENZA_SERVER_LANES" else str(value))
    settings = Settings.from_command_line(rendered.server["args"])
    assert (settings.port, settings.http_port, settings.health_port) == (8500, 8501, 8502)


def test_flags_of_all_kinds_reach_the_server() -> None:
    settings = Settings.from_command_line(render(**VALUES["all"]).server["args"])
    assert not settings.prefix_cache
    assert settings.client_weights == {"a": 2.0, "b": 3.0}
    assert settings.max_queue_bytes == 64 << 20


def test_every_container_is_confined(rendered: Rendered) -> None:
    for pod in rendered.pod_specs():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert container["resources"]["limits"]["memory"]
            if not context.get("privileged"):
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"] == {"drop": ["ALL"]}


def test_only_the_profiles_switch_makes_the_server_privileged() -> None:
    privileged = {
        name: "privileged" in render(**values).server["securityContext"] for name, values in VALUES.items()
    }
    assert [name for name, found in privileged.items() if found] == ["tpu"]


def test_services_set_no_flags_of_the_server(rendered: Rendered) -> None:
    """A Service named cadenza-server would set CADENZA_SERVER_PORT=tcp://... in every pod."""
    assert all(pod["enableServiceLinks"] is False for pod in rendered.pod_specs())


def test_probes_ask_the_port_that_needs_no_tls_and_no_token(rendered: Rendered) -> None:
    ports = {port["name"]: port["containerPort"] for port in rendered.server["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert rendered.server[probe]["grpc"] == {"port": ports["health"]}
    assert "--health-port=8502" in rendered.server["args"]


def test_startup_may_take_as_long_as_the_profile_says() -> None:
    for profile, seconds in (("cpu", 600), ("gpu", 1800)):
        probe = render(profile=profile).server["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == seconds


def test_grace_period_is_longer_than_pre_stop_and_drain() -> None:
    pod = render(server={"preStopSeconds": 7, "drainSeconds": 90}).pod
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert "--drain-seconds=90" in container["args"]
    assert pod["terminationGracePeriodSeconds"] > 7 + 90 + 5  # the server gives last messages 5 s


def test_connections_age_out() -> None:
    args = render(server={"maxConnectionSeconds": 120}).server["args"]
    assert Settings.from_command_line(args).max_connection_seconds == 120


def test_lanes_are_the_cpus_of_the_limit_and_not_of_the_node() -> None:
    assert values_of(render().server)["CADENZA_SERVER_LANES"] == {
        "resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}
    }
    assert "CADENZA_SERVER_LANES" not in values_of(render(profile="gpu").server)


def test_gpu_profile_asks_for_one_gpu_and_tolerates_its_taint() -> None:
    release = render(profile="gpu")
    assert release.server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in release.pod[
        "tolerations"
    ]
    assert release.server["image"] == "cadenza:0.1.0-gpu"
    assert "--device=gpu" in release.server["args"]


@pytest.mark.parametrize(("topology", "chips"), [("1x1", 1), ("2x2", 4), ("2x4", 8), ("2x2x1", 4)])
def test_tpu_chips_are_the_product_of_the_topology(topology: str, chips: int) -> None:
    release = render(profile="tpu", profiles={"tpu": {"topology": topology}})
    assert release.server["resources"]["limits"]["google.com/tpu"] == chips
    assert release.pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": topology,
    }


def test_prometheus_scrapes_every_pod_once() -> None:
    rendered = render(monitoring={"serviceMonitor": {"enabled": True}})
    spec = rendered.one("ServiceMonitor")["spec"]
    selector, (endpoint,) = spec["selector"]["matchLabels"].items(), spec["endpoints"]
    (service,) = [item for item in rendered.all("Service") if selector <= item["metadata"]["labels"].items()]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert endpoint["path"] == "/metrics"


def test_services_reach_the_servers_alone(rendered: Rendered) -> None:
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    other = [item["spec"]["template"]["metadata"]["labels"] for item in rendered.all("Job")]
    other += [item["metadata"]["labels"] for item in rendered.all("Pod")]
    for service in rendered.all("Service"):
        selector = service["spec"]["selector"].items()
        assert selector <= labels.items()
        assert not any(selector <= one.items() for one in other)
    assert rendered.one("Service", "r-cadenza-headless")["spec"]["clusterIP"] == "None"


def test_grpc_ports_say_what_they_speak() -> None:
    for values, protocol in (({}, "kubernetes.io/h2c"), (VALUES["all"], "https")):
        for service in render(**values).all("Service"):
            (port,) = [port for port in service["spec"]["ports"] if port["name"] == "grpc"]
            assert port["appProtocol"] == protocol


def test_tls_and_tokens_come_from_secrets() -> None:
    release = render(**VALUES["all"])
    settings = Settings.from_command_line(release.server["args"])
    mounts = {mount["name"]: mount["mountPath"] for mount in release.server["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"] for volume in release.pod["volumes"] if "secret" in volume}
    assert {name: secret["secretName"] for name, secret in secrets.items()} == {
        "tls": "tls",
        "auth": "tokens",
    }
    assert str(settings.tls_certificate) == f"{mounts['tls']}/tls.crt"
    assert str(settings.tls_client_ca) == f"{mounts['tls']}/ca.crt"
    assert str(settings.token_file) == f"{mounts['auth']}/{secrets['auth']['items'][0]['path']}"
    assert all(secret["defaultMode"] == 0o440 for secret in secrets.values())


def test_load_test_and_helm_test_call_with_credentials_of_their_own() -> None:
    release = render(**VALUES["all"])
    for pod in (release.one("Pod")["spec"], release.one("Job")["spec"]["template"]["spec"]):
        (container,) = pod["containers"]
        environment = values_of(container)
        assert environment["CADENZA_TARGET"] == "r-cadenza:8500"
        assert environment["CADENZA_TOKEN"] == {"secretKeyRef": {"name": "token", "key": "token"}}
        assert environment["CADENZA_TLS_CERT_FILE"] == "/etc/cadenza/tls/tls.crt"
        assert {"secretName": "client", "defaultMode": 0o440} in [one.get("secret") for one in pod["volumes"]]


def test_models_come_from_a_claim_that_is_kept() -> None:
    release = render()
    claim = release.one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in release.server["volumeMounts"]
    assert render(models={"pvc": {"existingClaim": "mine"}}).all("PersistentVolumeClaim") == []


def test_models_are_exported_by_an_init_container() -> None:
    (container,) = render(**VALUES["tpu"]).pod["initContainers"]
    assert container["command"][:3] == ["cadenza-export", "/source/smol.gguf", "--output=/models/smol/3"]
    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]


def test_models_in_the_image_start_with_its_compiled_kernels() -> None:
    release = render(**VALUES["all"])
    (container,) = release.pod["initContainers"]
    assert container["image"] == release.server["image"]
    assert container["command"][-1] == "cp -R /cache/. /seed/"
    assert "models" not in {volume["name"] for volume in release.pod["volumes"]}


def test_autoscaler_owns_the_replicas() -> None:
    assert render().one("Deployment")["spec"]["replicas"] == 2
    for name in ("all", "keda"):
        assert "replicas" not in render(**VALUES[name]).one("Deployment")["spec"]


def test_hpa_follows_waiting_requests_and_kv_usage() -> None:
    spec = render(**VALUES["all"]).one("HorizontalPodAutoscaler")["spec"]
    targets = {item["pods"]["metric"]["name"]: item["pods"]["target"] for item in spec["metrics"]}
    assert targets == {
        "cadenza_num_requests_waiting": {"type": "AverageValue", "averageValue": "4"},
        "cadenza_kv_cache_usage_ratio": {"type": "AverageValue", "averageValue": "800m"},
    }


def test_keda_asks_prometheus_for_the_same() -> None:
    triggers = render(**VALUES["keda"]).one("ScaledObject")["spec"]["triggers"]
    assert [trigger["metadata"]["threshold"] for trigger in triggers] == ["4", "0.8"]
    pods = '{namespace="n",service="r-cadenza"}'
    assert triggers[0]["metadata"]["query"] == f"sum(cadenza_num_requests_waiting{pods})"


def test_pods_spread_and_are_not_all_evicted(rendered: Rendered) -> None:
    keys = [item["topologyKey"] for item in rendered.pod["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_network_policy_opens_two_ports_and_nothing_outwards(rendered: Rendered) -> None:
    spec = rendered.one("NetworkPolicy")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["ingress"]] == [["grpc", "http"]]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []


def test_network_policy_lets_prometheus_reach_the_metrics_alone() -> None:
    callers = [{"podSelector": {"matchLabels": {"a": "b"}}}]
    prometheus = [{"namespaceSelector": {"matchLabels": {"c": "d"}}}]
    policy = render(networkPolicy={"ingressFrom": callers, "metricsFrom": prometheus}).one("NetworkPolicy")
    calls, metrics = policy["spec"]["ingress"]
    assert (calls["from"], metrics["from"]) == (callers, prometheus)
    assert [port["port"] for port in metrics["ports"]] == ["http"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"profile": "fpga"}, "/profile"),
        ({"replicas": 3}, "replicas"),
        ({"server": {"flags": {"port": 1}}}, "port"),
        ({"server": {"flags": {"maxSequences": 1}}}, "maxSequences"),
        ({"tls": {"enabled": True}}, "/tls/secretName"),
        ({"auth": {"enabled": True}}, "/auth/secretName"),
        ({"models": {"source": "fetch"}}, "/models/fetch/image"),
        ({"models": {"source": "export"}}, "/models/export"),
        ({"strategy": {"maxSurge": 0}}, "/strategy"),
        ({"autoscaling": {"targetKvCacheUsage": 80}}, "/autoscaling/targetKvCacheUsage"),
        ({"profiles": {"tpu": {"topology": "16x16"}}}, "/profiles/tpu/topology"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ChartError, match=complaint):
        render(**values)
