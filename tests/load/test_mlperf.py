"""MLPerf's LoadGen as the generator: what it asks for is answered, and both clocks say the same."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from tests.load.scripted import held_server

from cadenza.client._settings import settings_from
from cadenza.load import LoadError
from cadenza.load._counts import FINISHED, LiveCounts
from cadenza.load._mlperf import compare_with_mlperf, generate_with_mlperf
from cadenza.load._plan import ClosedLoop, LoadPlan
from cadenza.load._workload import given_prompts

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="LoadGen has no wheel for this machine"
)


async def test_loadgen_gets_an_answer_to_everything_and_counts_the_same_tokens(tmp_path: Path) -> None:
    async with held_server(1, 2) as server:
        await server.release()
        plan = LoadPlan(server.settings, given_prompts(server.settings, ["x"], [{}]), ClosedLoop(1))
        counts = LiveCounts()
        generated = await generate_with_mlperf(plan, 100.0, 0.3, tmp_path / "logs", counts)
        asked = len(server.requests)
    assert asked >= 30
    assert counts.total(FINISHED) == asked
    assert [record.index for record in generated.records] == list(range(asked))
    assert {record.tokens for record in generated.records} == {3}
    figures = {one.name: one for one in compare_with_mlperf(tmp_path / "logs", generated.records)}
    assert set(figures) == {
        f"{name} {statistic}"
        for name in ("TTFT", "TPOT", "latency")
        for statistic in ("mean", "p50", "p90", "p95", "p99")
    }
    assert all(one.theirs > 0 for name, one in figures.items() if not name.startswith("TPOT"))


async def test_loadgen_is_told_of_failures_too_and_ends(tmp_path: Path) -> None:
    async with held_server() as server:  # which never answers
        settings = dataclasses.replace(server.settings, defaults={**server.settings.defaults, "timeout": 0.2})
        plan = LoadPlan(settings, given_prompts(settings, ["x"], [{}]), ClosedLoop(1))
        generated = await generate_with_mlperf(plan, 20.0, 0.2, tmp_path, LiveCounts())
    assert {record.error for record in generated.records} == {"DEADLINE_EXCEEDED"}


async def test_loadgen_needs_a_server(tmp_path: Path) -> None:
    settings = settings_from("localhost:1", {}, {})
    plan = LoadPlan(settings, given_prompts(settings, ["x"], [{}]), ClosedLoop(1))
    with pytest.raises(LoadError, match="localhost:1 is not ready"):
        await generate_with_mlperf(plan, 20.0, 0.2, tmp_path, LiveCounts())
