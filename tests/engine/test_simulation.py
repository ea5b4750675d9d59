"""The simulator of tests/bench: virtual time is exact, the same seed gives the same figures."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bench.simulation.cost import CostModel, MeasuredRunner, StepShape
from tests.bench.simulation.measured import fit
from tests.bench.simulation.recorder import Figures
from tests.bench.simulation.simulated import simulate
from tests.bench.simulation.synthetic import Workload, synthetic_trace
from tests.bench.simulation.trace import TraceError, TraceRequest, engine_requests, read_trace, write_trace

from cadenza.server.engine.options import EngineOptions
from cadenza.server.engine.request import GREEDY
from cadenza.server.runner.base import RunnerLimits, SequenceSlice, StepBatch

MEASURED = MeasuredRunner(
    machine="none",
    model="none",
    limits=RunnerLimits(block_size=4, num_blocks=64, max_step_tokens=8, max_sequences=4, max_context=256),
    cost=CostModel(fixed=1.0, decode_row=0.5, prefill_row=0.25, position=0.0),
)
SMALL = Workload(requests=30, rate=0.2, prompt_tokens=(1, 60), output_tokens=(1, 12))


def simulated(trace: list[TraceRequest], measured: MeasuredRunner = MEASURED, seed: int = 1) -> Figures:
    return simulate(trace, measured.limits, measured.cost, EngineOptions(mixed_prefill_tokens=8), seed)


def test_a_request_alone_takes_the_time_of_its_steps() -> None:
    figures = simulated([TraceRequest(arrival=2.0, prompt_tokens=4, output_tokens=3)])
    # A prefill of 4 rows: 1 + 4 * 0.25 = 2. Two decodes of one row: 1 + 0.5 each.
    assert figures.duration == 2.0 + 2.0 + 1.5 + 1.5
    assert figures.ttft is not None
    assert figures.ttft.mean == 2.0
    assert figures.itl is not None
    assert (figures.itl.p50, figures.itl.p99) == (1.5, 1.5)
    assert figures.queue is not None
    assert figures.queue.mean == 0.0
    assert (figures.steps, figures.generated_tokens) == (3, 3)


def test_a_request_that_arrives_during_a_step_begins_after_it() -> None:
    figures = simulated([TraceRequest(0.0, 4, 2), TraceRequest(0.5, 4, 1)])
    # The first prefill ends at 2. Then 1 decode and 4 prefill rows together: 1 + 0.5 + 4 * 0.25 = 2.5.
    assert figures.duration == 4.5
    assert figures.queue is not None
    assert figures.queue.mean == (0.0 + 1.5) / 2
    assert figures.ttft is not None
    assert figures.ttft.mean == (2.0 + 4.0) / 2


def test_positions_are_those_that_all_rows_attend_to() -> None:
    prefill = SequenceSlice(token_ids=[7, 8, 9], start=10, block_table=[0], sampling=None)
    decode = SequenceSlice(token_ids=[5], start=4, block_table=[1], sampling=GREEDY)
    assert StepShape.of(StepBatch([prefill, decode])) == StepShape(1, 3, 11 + 12 + 13 + 5)


def test_no_step_is_faster_than_the_floor() -> None:
    cost = CostModel(fixed=1.0, decode_row=0.5, prefill_row=0.25, position=0.125, floor=3.0)
    assert cost.seconds(StepShape(1, 0, 4)) == 3.0
    assert cost.seconds(StepShape(2, 4, 8)) == 1.0 + 1.0 + 1.0 + 1.0


def test_a_shared_prefix_is_computed_once() -> None:
    trace = [TraceRequest(100.0 * index, 10, 1, prefix="p", prefix_tokens=8) for index in range(3)]
    figures = simulated(trace)
    assert figures.cached_tokens == 2 * 8
    assert figures.looked_up_tokens == 3 * 10


def test_little_memory_makes_preemptions_and_all_requests_finish() -> None:
    tight = dataclasses.replace(MEASURED, limits=dataclasses.replace(MEASURED.limits, num_blocks=8))
    trace = [TraceRequest(0.0, 6, 20) for _ in range(4)]
    figures = simulated(trace, tight)
    assert figures.preemptions > 0
    assert figures.ended == {"finished": 4}


def test_a_deadline_in_virtual_time_ends_a_request() -> None:
    figures = simulated([TraceRequest(0.0, 4, 50, deadline=10.0), TraceRequest(0.0, 4, 2)])
    assert figures.ended == {"deadline": 1, "finished": 1}


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    blocks=st.integers(20, 64),
    groups=st.integers(0, 3),
    deadline=st.sampled_from([math.inf, 20.0]),
)
def test_every_request_of_a_trace_ends(seed: int, blocks: int, groups: int, deadline: float) -> None:
    limits = dataclasses.replace(MEASURED.limits, num_blocks=blocks)
    workload = dataclasses.replace(
        SMALL, prefix_groups=groups, prefix_tokens=8, clients=3, priorities=2, deadline=deadline
    )
    figures = simulated(synthetic_trace(workload, seed), dataclasses.replace(MEASURED, limits=limits))
    assert sum(figures.ended.values()) == SMALL.requests
    assert figures.ended.keys() <= {"finished", "deadline"}


def test_the_same_seed_gives_the_same_figures_and_another_does_not() -> None:
    first, again, other = (simulated(synthetic_trace(SMALL, seed), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_requests_of_a_group_share_their_prefix_and_nothing_else() -> None:
    trace = [TraceRequest(0.0, 20, 1, prefix="p", prefix_tokens=16) for _ in range(2)]
    one, two = (request.prompt_token_ids for request in engine_requests(trace, seed=1))
    assert one[:16] == two[:16]
    assert one[16:] != two[16:]


def test_a_trace_file_gives_the_trace_that_was_written(tmp_path: Path) -> None:
    trace = synthetic_trace(dataclasses.replace(SMALL, prefix_groups=2, prefix_tokens=4, deadline=5.0), 1)
    write_trace(trace, tmp_path / "trace.jsonl")
    assert read_trace(tmp_path / "trace.jsonl") == trace


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"arrival": 0, "prompt_tokens": 4}', "output_tokens"),
        ('{"arrival": 0, "prompt_tokens": 4, "output_tokens": 1, "color": 1}', "color: unknown"),
        ('{"arrival": -1, "prompt_tokens": 4, "output_tokens": 1}', "arrival must be 0 or more"),
        ('{"arrival": 0, "prompt_tokens": "4", "output_tokens": 1}', "prompt_tokens is '4'"),
        ('{"arrival": 0, "prompt_tokens": 4, "output_tokens": 1, "prefix_tokens": 5}', "not within"),
        ("[1]", "no JSON object"),
        ("nonsense", "line 2"),
    ],
)
def test_a_wrong_line_of_a_trace_file_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f'{{"arrival": 0, "prompt_tokens": 4, "output_tokens": 1}}\n{line}\n')
    with pytest.raises(TraceError, match="line 2") as error:
        read_trace(path)
    assert told in str(error.value)


def test_a_fit_finds_the_coefficients_that_made_the_steps() -> None:
    cost = CostModel(fixed=0.004, decode_row=0.0005, prefill_row=0.0004, position=1e-6)
    shapes = [
        StepShape(decode, prefill, 50 * (decode + prefill) + 997 * (decode % 3))
        for decode in range(1, 20)
        for prefill in (0, 16, 100)
    ]
    steps = [(shape, cost.seconds(shape)) for shape in shapes]
    found = fit([*steps, (shapes[9], 10 * cost.seconds(shapes[9]))])
    for name in ("fixed", "decode_row", "prefill_row", "position"):
        assert getattr(found.cost, name) == pytest.approx(getattr(cost, name))
    assert found.left_out == 1
    assert found.median_error < 1e-9


def test_what_was_measured_is_read_as_it_was_written(tmp_path: Path) -> None:
    MEASURED.save(tmp_path / "cost.json")
    assert MeasuredRunner.read(tmp_path / "cost.json") == MEASURED
