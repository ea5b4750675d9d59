"""A real Envoy with the project's configuration, told of its replicas as a mesh tells it, by endpoints.

Its port `calls` balances every call, as a gateway does; `connections` balances connections, as a ClusterIP
Service does.
"""

import asyncio
import contextlib
import dataclasses
import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import yaml

WAIT_SECONDS = 30
CLUSTERS = ("calls", "connections")
CONFIG = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
TYPES = "type.googleapis.com/envoy.extensions"
ENVOY = Path(sys.executable).with_name("envoy")


@dataclasses.dataclass(frozen=True)
class Envoy:
    """A running proxy."""

    folder: Path
    admin: str
    ports: dict[str, int]

    async def route_to(self, ports: Sequence[int]) -> None:
        """Makes these local ports the endpoints, and waits until both ways have no others."""
        _write_endpoints(self.folder, ports)
        async with asyncio.timeout(WAIT_SECONDS):
            while any([await self._endpoints(name) != set(ports) for name in CLUSTERS]):  # noqa: ASYNC110 only asked
                await asyncio.sleep(0.05)

    async def _endpoints(self, cluster: str) -> set[int]:
        """The ports that are in use and healthy."""
        found = json.loads(await asyncio.to_thread(_get, f"http://{self.admin}/clusters?format=json"))
        (status,) = [item for item in found["cluster_statuses"] if item["name"] == cluster]
        hosts = status.get("host_statuses", [])
        healthy = [host for host in hosts if host["health_status"] == {"eds_health_status": "HEALTHY"}]
        return {host["address"]["socket_address"]["port_value"] for host in healthy}


@contextlib.asynccontextmanager
async def envoy(folder: Path) -> AsyncIterator[Envoy]:
    """Starts Envoy without endpoints."""
    _write_endpoints(folder, ())
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(folder)))
    process = await asyncio.create_subprocess_exec(
        ENVOY, "--config-path", folder / "envoy.json", "--admin-address-path", folder / "admin",
        "--concurrency", "1", "--use-dynamic-base-id", "--disable-hot-restart",
        "--log-level", "warning", "--log-path", folder / "log",
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not (admin := _read(folder / "admin")) or not (
                ports := await asyncio.to_thread(_ports, admin)
            ):
                assert process.returncode is None, _read(folder / "log")
                await asyncio.sleep(0.05)
        yield Envoy(folder, admin, ports)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _bootstrap(folder: Path) -> dict[str, Any]:
    """The project's own configuration on free ports, its pods told by files; and a Service beside it."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["node"] = {"id": "test", "cluster": "test"}
    config["admin"]["address"] = _address(0)
    resources = config["static_resources"]
    (calls,) = resources["clusters"]
    (listener,) = resources["listeners"]
    listener["address"] = _address(0)
    for name in ("load_assignment", "dns_refresh_rate", "respect_dns_ttl"):
        del calls[name]
    calls |= _endpoints_by_file(folder, "calls")
    resources["clusters"].append({"name": "connections", **_endpoints_by_file(folder, "connections")})
    service = {
        "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "c",
        "cluster": "connections",
    }
    resources["listeners"].append(
        {
            "name": "connections",
            "address": _address(0),
            "filter_chains": [{"filters": [{"name": "tcp", "typed_config": service}]}],
        }
    )
    return config


def _endpoints_by_file(folder: Path, cluster: str) -> dict[str, Any]:
    source = {"path": str(_endpoints_file(folder, cluster)), "watched_directory": {"path": str(folder)}}
    return {"type": "EDS", "eds_cluster_config": {"eds_config": {"path_config_source": source}}}


def _write_endpoints(folder: Path, ports: Sequence[int]) -> None:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}} for port in ports]}]
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    for name in CLUSTERS:
        target = _endpoints_file(folder, name)
        partial = target.with_suffix(".partial")
        partial.write_text(
            json.dumps({"resources": [{"@type": kind, "cluster_name": name, "endpoints": endpoints}]})
        )
        partial.replace(target)


def _endpoints_file(folder: Path, cluster: str) -> Path:
    return folder / f"{cluster}.json"


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _ports(admin: str) -> dict[str, int]:
    try:
        found = json.loads(_get(f"http://{admin}/listeners?format=json"))
    except OSError:
        return {}
    statuses = found.get("listener_statuses", [])
    return {item["name"]: item["local_address"]["socket_address"]["port_value"] for item in statuses}


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
    return text


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
