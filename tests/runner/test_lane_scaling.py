"""What the rule for lanes gives machines of 8, 32 and 96 cores, in simulation."""

import dataclasses

import pytest
from tests.bench.lanes import (
    FLAGS,
    MACHINES,
    TIMES,
    Flags,
    Machine,
    best_lanes,
    decode_seconds,
    rule,
    simulate_machine,
)
from tests.bench.simulation.cost import StepShape
from tests.bench.simulation.lane_cost import LaneCost, LaneTimes, fit_lanes

MADE = LaneTimes(
    machine="none",
    model="none",
    native=False,
    weight_bytes=100_000_000,
    core_bandwidth=25e9,
    node_bandwidth=40e9,
    serial=0.5e-3,
    serial_row=0.02e-3,
    decode_row=0.6e-3,
    prefill_row=0.5e-3,
    position=1e-6,
)
SHAPES = [
    StepShape(decode, prefill, 60 * (decode + prefill) + 900 * (decode % 3))
    for decode in (8, 16, 32, 64)
    for prefill in (0, 16, 100)
]


@pytest.fixture(params=[False, True], ids=["LiteRT", "native"])
def times(request: pytest.FixtureRequest) -> LaneTimes:
    """The measured times, as if of either runner."""
    return dataclasses.replace(LaneTimes.read(TIMES), native=request.param)


@pytest.fixture
def litert_times() -> LaneTimes:
    return dataclasses.replace(LaneTimes.read(TIMES), native=False)


def test_throughput_grows_from_2_over_8_and_32_to_96_cores(times: LaneTimes) -> None:
    two, eight, many, twice_as_many = [
        simulate_machine(machine, times, Flags(), rule(machine, times, Flags()), depth=2).throughput
        for machine in MACHINES
    ]
    assert eight > 1.2 * two
    assert many > 1.5 * eight
    assert twice_as_many == pytest.approx(2 * many)


def test_larger_steps_make_a_large_machine_faster_in_all(litert_times: LaneTimes) -> None:
    machine = MACHINES[2]
    small, large = (
        simulate_machine(machine, litert_times, flags, rule(machine, litert_times, flags), depth=2)
        for flags in FLAGS
    )
    assert large.lanes > small.lanes
    assert large.throughput > small.throughput


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_no_number_of_lanes_is_much_better_than_the_rules(
    litert_times: LaneTimes, machine: Machine, flags: Flags
) -> None:
    by_rule, best = (
        decode_seconds(LaneCost(litert_times, lanes, machine.node_bandwidth), flags)
        for lanes in (rule(machine, litert_times, flags), best_lanes(machine, litert_times, flags))
    )
    assert by_rule < 1.25 * best


def test_a_step_waits_for_the_lane_with_most_rows_and_for_the_memory_that_all_share() -> None:
    one, three = (LaneCost(MADE, lanes, node_bandwidth=40e9) for lanes in (1, 3))
    # One lane reads 100 MB at 25 GB/s; three at a third of 40 GB/s each, and the busiest has 3 of 7 rows.
    assert one.seconds(StepShape(7, 0, 0)) == pytest.approx(0.5e-3 + 7 * 0.02e-3 + 4e-3 + 7 * 0.6e-3)
    assert three.seconds(StepShape(7, 0, 0)) == pytest.approx(0.5e-3 + 7 * 0.02e-3 + 7.5e-3 + 3 * 0.6e-3)


def test_few_rows_are_not_spread_over_more_lanes_than_the_runner_would() -> None:
    many, two = (LaneCost(MADE, lanes, node_bandwidth=1e12) for lanes in (8, 2))
    for rows in (1, 2, 3, 4, 5):
        assert many.seconds(StepShape(rows, 0, 0)) == two.seconds(StepShape(rows, 0, 0))


def test_a_team_reads_the_weights_once_and_every_lane_has_an_equal_share_of_every_row() -> None:
    times = dataclasses.replace(MADE, native=True)
    one, three = (LaneCost(times, lanes, node_bandwidth=40e9) for lanes in (1, 3))
    serial = 0.5e-3 + 7 * 0.02e-3
    assert one.seconds(StepShape(7, 0, 0)) == pytest.approx(serial + 4e-3 + 7 * 0.6e-3)
    # Three lanes read 100 MB at 40 GB/s together.
    assert three.seconds(StepShape(7, 0, 0)) == pytest.approx(serial + 2.5e-3 + 7 * 0.6e-3 / 3)


def test_with_many_rows_a_team_does_what_lanes_with_rows_of_their_own_do() -> None:
    native, cut = (
        LaneCost(dataclasses.replace(MADE, native=is_native), 4, 40e9) for is_native in (True, False)
    )
    few, many = StepShape(31, 0, 900), StepShape(32, 0, 900)
    assert native.seconds(many) == cut.seconds(many)
    assert native.seconds(few) < cut.seconds(few)


@pytest.mark.parametrize("native", [False, True], ids=["LiteRT", "native"])
def test_a_fit_of_one_and_two_lanes_finds_the_times_that_made_their_steps(native: bool) -> None:
    times = dataclasses.replace(MADE, native=native)
    steps = {
        lanes: [(shape, LaneCost(times, lanes, 40e9).seconds(shape)) for shape in SHAPES] for lanes in (1, 2)
    }
    found = fit_lanes(
        steps,
        {1: 25e9, 2: 40e9},
        MADE.weight_bytes,
        native=native,
        machine="none",
        model="none",
    )
    for field in dataclasses.fields(LaneTimes):
        assert getattr(found, field.name) == pytest.approx(getattr(times, field.name)), field.name
