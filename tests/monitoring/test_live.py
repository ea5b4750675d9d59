"""A real Prometheus scrapes a server that works, and everything that people look at has data."""

import asyncio
import contextlib
import json
import math
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from deploy.monitoring.dashboard import Query, queries, read_dashboard, read_rules
from tests.client.certificates import Authority
from tests.monitoring.prometheus import Prometheus, metrics_complaints, prometheus
from tests.security.secured import Installed, secure_channel
from tests.server.live import Live, create, live_server, stream
from tests.server.scripted_runner import ScriptedRunner

from cadenza.v1 import completion_pb2_grpc as pb_grpc

pytestmark = pytest.mark.usefixtures("tools")
SCRAPE_SECONDS = 0.5
WAIT_SECONDS = 60
ALL = dict.fromkeys(("namespace", "job", "instance", "model"), ".*") | {"__rate_interval": "10s"}
"""The dashboard's variables, nothing chosen."""
PROMPT = "abcdefghijklmnop"


@pytest.fixture
async def live(tmp_path: Path, artifact: Path) -> AsyncIterator[Live]:
    """Behind TLS, so that there is a certificate; its channel knows the authority."""
    authority = Authority(tmp_path / "authority")
    installed = Installed(tmp_path / "tls", authority.issue("localhost"))
    runner = ScriptedRunner(step_seconds=0.001)
    async with (
        live_server(artifact, runner, openai="on", **installed.settings) as one,
        secure_channel(one, authority) as channel,
    ):
        one.channel, one.stub = channel, pb_grpc.CompletionServiceStub(channel)
        yield one


async def some_of_everything(live: Live) -> None:
    """Requests that end in every way."""
    for _ in range(3):
        await live.text(PROMPT, max_tokens=4)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await live.stub.CreateCompletion(create("a", temperature=-1))
    live.runner.fail(1)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await live.text("a", max_tokens=4)
    leaving = live.stub.StreamCompletion(stream("a", max_tokens=100))
    await leaving.read()
    leaving.cancel()
    await asyncio.to_thread(complete_over_http, live.ports.http)


def complete_over_http(port: int) -> None:
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 2}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
        assert response.status == 200


def without_data(server: Prometheus, asked: list[Query]) -> list[Query]:
    """The queries that give no number yet; steps of a kind that there were none of have no quantiles."""
    return [query for query in asked if not has_number(server.query(query.filled_in(ALL)))]


def has_number(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(one["value"][1])) for one in series)


@pytest.mark.timeout(120)
async def test_every_query_of_the_dashboard_has_data_and_every_rule_is_evaluated(
    live: Live, tmp_path: Path
) -> None:
    missing = list(queries(read_dashboard()))
    with prometheus(tmp_path, live.ports.http, SCRAPE_SECONDS) as server:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                while missing:
                    await some_of_everything(live)
                    missing = await asyncio.to_thread(without_data, server, missing)
        rules = await asyncio.to_thread(server.rules)
    assert missing == []
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
    assert len(rules) == len(read_rules())


async def test_promtool_has_no_complaint_about_the_metrics_of_a_server_that_has_worked(live: Live) -> None:
    await some_of_everything(live)
    _, page = await live.get("/metrics")
    assert await asyncio.to_thread(metrics_complaints, page) == ""


@pytest.mark.timeout(120)
async def test_an_engine_that_hangs_rings(artifact: Path, tmp_path: Path) -> None:
    runner = ScriptedRunner()
    async with live_server(artifact, runner, watchdog_seconds=0.2) as live:
        runner.hold()
        call = live.stub.StreamCompletion(stream("a", max_tokens=2))
        with prometheus(tmp_path, live.ports.http, SCRAPE_SECONDS) as server:
            async with asyncio.timeout(WAIT_SECONDS):
                while "CadenzaEngineStalled" not in await asyncio.to_thread(firing, server):
                    pass
        runner.allow()
        assert await call.read() is not grpc.aio.EOF


def firing(server: Prometheus) -> set[str]:
    """The alerts that fire."""
    return {rule["name"] for rule in server.rules() if rule.get("state") == "firing"}
