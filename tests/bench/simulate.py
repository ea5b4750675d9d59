"""`python -m tests.bench.simulate`: replays traces against the real engine and scheduler in virtual time.

run     simulate a trace, once or for several prefill budgets
trace   write the synthetic trace that `run` with the same options would use
fit     measure the int8 model's steps on this machine and write the cost model
check   replay one trace in real time and in simulation, and compare
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.demo.models import ARTIFACTS, CACHE
from rich.console import Console
from tests.bench.machine import processor
from tests.bench.simulation.cost import MeasuredRunner
from tests.bench.simulation.simulated import simulate
from tests.bench.simulation.synthetic import Workload, synthetic_trace
from tests.bench.simulation.tables import comparison, figures_table
from tests.bench.simulation.trace import TraceRequest, read_trace, write_trace
from tests.bench.workload import SEED

from cadenza.server.engine.options import EngineOptions

COST = Path(__file__).parent / "simulation" / "cost.json"
_DEFAULT = Workload()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    match options.command:
        case "run":
            run(options, console)
        case "trace":
            write_trace(_trace(options), options.output)
        case "fit":
            fit_cost(options, console)
        case "check":
            check(options, console)
    return 0


def run(options: argparse.Namespace, console: Console) -> None:
    """One column for each prefill budget."""
    trace, measured = _trace(options), MeasuredRunner.read(options.cost)
    columns = {
        f"budget {budget}": simulate(
            trace, measured.limits, measured.cost, _engine_options(options, budget), options.seed
        )
        for budget in options.mixed_prefill_tokens
    }
    console.print(f"cost of {measured.model} on {measured.machine}; seed {options.seed}")
    console.print(figures_table(f"{len(trace)} requests, simulated", columns))


def fit_cost(options: argparse.Namespace, console: Console) -> None:
    """Runs the calibration traces on the real engine."""
    from tests.bench.sampling import load
    from tests.bench.simulation.measured import calibration_traces, fit, replay

    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores"
    runner = load(ARTIFACTS["int8"], CACHE / "server")
    try:
        runner.warm_up()
        steps = [
            step
            for _ in range(options.repeats)
            for trace in calibration_traces(options.seed)
            for step in replay(trace, runner, EngineOptions(), options.seed).steps
        ]
    finally:
        runner.close()
    found = fit(steps)
    MeasuredRunner(machine, "SmolLM2-135M int8", runner.limits, found.cost).save(options.output)
    console.print(
        f"{machine}, load average {os.getloadavg()[0]:.1f}, seed {options.seed}\n{found.cost}\n"
        f"{found.steps} steps, {found.left_out} of them interrupted; error of a step: median "
        f"{100 * found.median_error:.1f} %, p90 {100 * found.p90_error:.1f} %; "
        f"all steps together: estimate / measured = {found.total:.3f}\ncost model: {options.output}"
    )


def check(options: argparse.Namespace, console: Console) -> None:
    """Real time first, then virtual time, with the same trace and options."""
    from tests.bench.sampling import load
    from tests.bench.simulation.measured import replay

    trace, measured = _trace(options), MeasuredRunner.read(options.cost)
    engine_options = _engine_options(options, options.mixed_prefill_tokens[0])
    runner = load(ARTIFACTS["int8"], CACHE / "server")
    try:
        runner.warm_up()
        real = replay(trace, runner, engine_options, options.seed)
    finally:
        runner.close()
    simulated = simulate(trace, measured.limits, measured.cost, engine_options, options.seed)
    estimates = sum(measured.cost.seconds(shape) for shape, _ in real.steps)
    console.print(f"cost of {measured.model} on {measured.machine}; seed {options.seed}")
    console.print(f"this run: {processor()}, load average {os.getloadavg()[0]:.1f}")
    console.print(comparison(real.figures, simulated))
    console.print(
        "cost model on the steps of the real run: estimate / measured = "
        f"{estimates / sum(seconds for _, seconds in real.steps):.3f}"
    )


def _trace(options: argparse.Namespace) -> list[TraceRequest]:
    if options.trace:
        return read_trace(options.trace)
    workload = Workload(
        requests=options.requests,
        rate=options.rate,
        prompt_tokens=tuple(options.prompt_tokens),
        output_tokens=tuple(options.output_tokens),
        prefix_groups=options.prefix_groups,
        prefix_tokens=options.prefix_tokens,
        long_share=options.long_share,
        long_tokens=options.long_tokens,
        clients=options.clients,
        priorities=options.priorities,
        deadline=options.deadline,
    )
    return synthetic_trace(workload, options.seed)


def _engine_options(options: argparse.Namespace, budget: int) -> EngineOptions:
    """Without drafts: tokens in simulation never repeat, those of the real model do."""
    return EngineOptions(
        mixed_prefill_tokens=budget, prefix_cache=not options.no_prefix_cache, speculation_tokens=0
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--seed", type=int, default=SEED)
    for field in ("requests", "prefix_groups", "prefix_tokens", "long_tokens", "clients", "priorities"):
        source.add_argument(_flag(field), type=int, default=getattr(_DEFAULT, field))
    for field in ("rate", "long_share", "deadline"):
        source.add_argument(_flag(field), type=float, default=getattr(_DEFAULT, field))
    for field in ("prompt_tokens", "output_tokens"):
        source.add_argument(
            _flag(field), type=int, nargs=2, default=getattr(_DEFAULT, field), metavar=("LEAST", "MOST")
        )
    source.add_argument("--trace", type=Path, help="a trace file instead of a synthetic trace")
    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument("--cost", type=Path, default=COST, help="what `fit` wrote")
    engine.add_argument("--no-prefix-cache", action="store_true")
    budgets = [EngineOptions().mixed_prefill_tokens]
    engine.add_argument("--mixed-prefill-tokens", type=int, nargs="+", default=budgets, metavar="N")
    commands.add_parser("run", parents=[source, engine])
    commands.add_parser("check", parents=[source, engine])
    commands.add_parser("trace", parents=[source]).add_argument("--output", type=Path, required=True)
    fitting = commands.add_parser("fit", parents=[source])
    fitting.add_argument("--output", type=Path, default=COST)
    fitting.add_argument("--repeats", type=int, default=1)
    return parser


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


if __name__ == "__main__":
    sys.exit(main())
