"""`python -m tests.bench.lanes`: what the rule that chooses lanes gives larger machines, by simulation.

run     the real engine on simulated machines, with the lanes that the rule gives and with the best number
fit     measure the int8 model's steps on one lane and on two, and write the cost model
memory  what 1, 2, 4 and 8 lanes take of this machine's memory

A machine's cores are as the measured one's. A server uses one NUMA node, so a machine of two
runs two servers, each with half of the requests. Every server has three times as many requests as run at
once, all there at the begin, of 64 prompt and 64 new tokens.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.bench.loading import load_runner, read_manifest
from tests.bench.machine import processor, read_bandwidth
from tests.bench.simulation.cost import StepShape
from tests.bench.simulation.lane_cost import LaneCost, LaneTimes, fit_lanes
from tests.bench.simulation.simulated import simulate
from tests.bench.simulation.trace import TraceRequest
from tests.bench.workload import NEW_TOKENS, PROMPT_TOKENS, SEED

from cadenza.server.engine.options import EngineOptions
from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.lanes import choose_lanes, most_lanes_by_rows, most_lanes_of_a_team
from cadenza.server.runner.native.tiles import PANEL
from cadenza.server.runner.topology import Topology

TIMES = Path(__file__).parent / "simulation" / "lanes.json"
CHANNEL = 0.8 * 4800e6 * 8
"""Bytes a second of a channel of DDR5-4800: 80 % of what its data sheet says."""
QUEUE_DEPTH = 3
HIDDEN_SIZE = 576
"""SmolLM2-135M's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """A machine to simulate."""

    name: str
    topology: Topology
    node_bandwidth: float
    """Bytes a second that the cores of a node read together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flags:
    """What a server is started with."""

    max_sequences: int = 64
    max_step_tokens: int = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Tokens a second of a whole machine."""

    lanes: int
    throughput: float
    step: float
    """Seconds of a step in which all sequences decode, at 100 positions."""


MACHINES = (
    Machine("2 cores, as measured", Topology((2,)), 35e9),
    Machine("8 cores, 2 channels", Topology((8,)), 2 * CHANNEL),
    Machine("32 cores, 12 channels", Topology((32,)), 12 * CHANNEL),
    Machine("96 cores, 2 x 12 channels", Topology((48, 48)), 12 * CHANNEL),
)
FLAGS = (Flags(), Flags(max_sequences=256, max_step_tokens=512))


def simulate_machine(machine: Machine, times: LaneTimes, flags: Flags, lanes: int, depth: int) -> Outcome:
    """A server on each node with `depth` times max_sequences requests."""
    cost = LaneCost(times, lanes, machine.node_bandwidth)
    limits = RunnerLimits(
        block_size=32,
        num_blocks=flags.max_sequences * 8,
        max_step_tokens=flags.max_step_tokens,
        max_sequences=flags.max_sequences,
        max_context=1024,
    )
    requests = [TraceRequest(0.0, PROMPT_TOKENS, NEW_TOKENS)] * (depth * flags.max_sequences)
    figures = simulate(requests, limits, cost, EngineOptions(prefix_cache=False), SEED)
    throughput = len(machine.topology.node_cores) * figures.tokens_per_second
    return Outcome(lanes, throughput, decode_seconds(cost, flags))


def decode_seconds(cost: LaneCost, flags: Flags) -> float:
    """Of a step in which every sequence decodes at 100 positions."""
    return cost.seconds(StepShape(flags.max_sequences, 0, 100 * flags.max_sequences))


def rule(machine: Machine, times: LaneTimes, flags: Flags) -> int:
    """The lanes that a server gets."""
    by_rows = most_lanes_by_rows(flags.max_step_tokens)
    most = most_lanes_of_a_team(HIDDEN_SIZE, PANEL) if times.native else by_rows
    return choose_lanes(machine.topology, most)


def best_lanes(machine: Machine, times: LaneTimes, flags: Flags) -> int:
    """With which the decode step of `decode_seconds` is shortest."""
    cores = range(1, max(machine.topology.node_cores) + 1)
    return min(cores, key=lambda n: decode_seconds(LaneCost(times, n, machine.node_bandwidth), flags))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.lanes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("run", "fit", "memory"))
    parser.add_argument("--times", type=Path, default=TIMES, help="what `fit` writes and `run` reads")
    options = parser.parse_args(arguments)
    console = Console()
    match options.command:
        case "run":
            run(LaneTimes.read(options.times), console)
        case "fit":
            times = measure_times()
            times.save(options.times)
            console.print(times)
        case "memory":
            from tests.bench.lane_memory import memory_table

            console.print(memory_table((1, 2, 4, 8)))
    return 0


def run(times: LaneTimes, console: Console) -> None:
    """A row for each machine and each setting of the flags."""
    console.print(f"cost of {times.model} on {times.machine}; seed {SEED}")
    table = Table(title="simulated")
    table.add_column("machine", no_wrap=True)
    for column in ("sequences", "step tokens", "lanes", "step, ms", "tokens/s", "best lanes", "tokens/s"):
        table.add_column(column, justify="right")
    for flags in FLAGS:
        for machine in MACHINES:
            by_rule, best = (
                simulate_machine(machine, times, flags, lanes, QUEUE_DEPTH)
                for lanes in (rule(machine, times, flags), best_lanes(machine, times, flags))
            )
            table.add_row(
                machine.name, str(flags.max_sequences), str(flags.max_step_tokens),
                str(by_rule.lanes), f"{1e3 * by_rule.step:.1f}", f"{by_rule.throughput:,.0f}",
                str(best.lanes), f"{best.throughput:,.0f}",
            )  # fmt: skip
    console.print(table)


def measure_times() -> LaneTimes:
    """Replays the same requests on one lane and on two; takes half a minute where nothing else runs."""
    from tests.bench.scaling_theory import Theory
    from tests.bench.simulation.measured import replay

    steps, names = {}, set()
    for lanes in (1, 2):
        runner = load_runner("int8", lanes=lanes)
        names.add(runner.name)
        try:
            steps[lanes] = [
                step
                for trace in _calibration_traces()
                for step in replay(trace, runner, EngineOptions(), SEED).steps
            ]
        finally:
            runner.close()
    return fit_lanes(
        steps,
        {threads: read_bandwidth(threads) for threads in (1, 2)},
        Theory.of(read_manifest("int8")).weight_bytes,
        native=names == {"native"},
        machine=f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        model="SmolLM2-135M int8",
    )


def _calibration_traces() -> list[list[TraceRequest]]:
    """8 to 64 streams at once, and long contexts."""
    together = [[TraceRequest(0.0, 64, 24)] * count for count in (8, 16, 24, 32, 48, 64)]
    contexts = [[TraceRequest(0.0, 500, 16)] * count for count in (16, 24)]
    return together + contexts


if __name__ == "__main__":
    sys.exit(main())
