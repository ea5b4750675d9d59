"""Many lanes on the real model: the same answers as one lane, and one copy of the packed weights."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from structlog.testing import capture_logs
from tests.bench.lane_memory import largest_step
from tests.bench.loading import read_manifest
from tests.real.cpu_program import CACHE, load_runner
from tests.runner.conformance import some_samplings
from tests.runner.driver import Job, complete

from cadenza.server.config import Settings
from cadenza.server.repository import Artifact
from cadenza.server.runner.cpu.runner import CpuRunner
from cadenza.server.runner.lanes import choose_lanes, most_lanes_by_rows
from cadenza.server.runner.loading import CpuLoader
from cadenza.server.runner.memory import process_memory
from cadenza.server.runner.topology import read_topology

pytestmark = pytest.mark.real_model

LANES = 8
"""More than this machine may have cores."""
VOCABULARY = 49_152
WEIGHTS = 134_515_008
"""Bytes of the int8 model's weights."""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What this process has."""

    own_bytes: int
    files: frozenset[str]
    """That are mapped. Their bytes do not serve: another process that maps them too would halve them."""


def held() -> Held:
    memory = process_memory()
    assert memory is not None, "the system does not tell"
    names = (line.split(maxsplit=5)[5:] for line in Path("/proc/self/maps").read_text().splitlines())
    return Held(memory.anonymous, frozenset(name for (name,) in filter(None, names) if name[0] == "/"))


def load(artifact: Path, lanes: int) -> CpuRunner:
    """A runner whose lanes have touched all their buffers."""
    runner = load_runner(artifact, lanes=lanes)
    runner.warm_up()
    largest_step(runner, VOCABULARY)
    return runner


@pytest.fixture(scope="module")
def one_lane(real_int8: Path) -> Iterator[CpuRunner]:
    runner = load(real_int8, lanes=1)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def before(one_lane: CpuRunner) -> Held:
    """What the process has with a runner of one lane."""
    return held()


@pytest.fixture(scope="module")
def many_lanes(real_int8: Path, before: Held) -> Iterator[CpuRunner]:
    runner = load(real_int8, LANES)
    yield runner
    runner.close()


def test_eight_more_lanes_map_no_more_files_and_own_less_than_a_fourth_of_the_weights_each(
    before: Held, many_lanes: CpuRunner
) -> None:
    after = held()
    assert after.files == before.files
    assert (after.own_bytes - before.own_bytes) / LANES < WEIGHTS / 4


def test_eight_lanes_give_the_tokens_and_log_probabilities_of_one_bit_for_bit(
    one_lane: CpuRunner, many_lanes: CpuRunner
) -> None:
    source = random.Random(8)
    jobs = [
        Job(
            [source.randrange(100, VOCABULARY) for _ in range(5 + 11 * index)],
            dataclasses.replace(sampling, logprobs=20, seed=index),
            count=6,
        )
        for index, sampling in enumerate(some_samplings())
    ]
    used = many_lanes.lane_seconds
    assert complete(many_lanes, jobs, chunk=50) == complete(one_lane, jobs, chunk=17)
    assert ((many_lanes.lane_seconds - used).sum(axis=1) > 0).all(), "a lane had no work"


@pytest.mark.parametrize(("runner_flag", "asked"), [("litert", 0), ("litert", 3), ("auto", 3)])
def test_a_server_has_the_lanes_that_are_asked_for_and_else_those_of_the_rule(
    real_int8: Path, runner_flag: Literal["litert", "auto"], asked: int
) -> None:
    settings = Settings(
        model=("m=unused",), runner=runner_flag, lanes=asked, cache_dir=CACHE, kv_cache_gib=0.06
    )
    artifact = Artifact("m", 1, real_int8, read_manifest("int8"), chat_template=None)
    with capture_logs() as log:
        (runner,) = CpuLoader(settings).load(artifact)
    assert isinstance(runner, CpuRunner)
    lanes = len(runner.lane_seconds)
    runner.close()
    assert lanes == (asked or choose_lanes(read_topology(), most_lanes_by_rows(settings.max_step_tokens)))
    (line,) = (line for line in log if line["event"] == "lanes")
    assert (line["model"], line["runner"], line["lanes"]) == ("m", runner.name, lanes)
    assert line["chosen_by"] == ("--lanes" if asked else "rule")
    (memory,) = (line for line in log if line["event"] == "model_memory")
    assert (memory["model"], memory["most_kv_cache_bytes"]) == ("m", int(0.06 * 2**30))
