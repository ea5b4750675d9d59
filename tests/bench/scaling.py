"""`python -m tests.bench.scaling`: how the cost of a prompt and of a decode step grows, beside theory.

In process, on the CPU runner alone: steps are given to it as the engine would, without the engine. Times are
medians; the formulas are those of scaling_theory.py (counts) and scaling_growth.py (fits). Results also go to
build/bench/scaling.json; with --images the plots of docs/images are written anew.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence

from deploy.demo.models import ARTIFACTS, ROOT
from rich.console import Console
from rich.table import Table
from tests.bench.loading import load_runner, read_manifest
from tests.bench.machine import processor
from tests.bench.scaling_growth import (
    Decode,
    Growth,
    decode_growth,
    decode_terms,
    prefill_growth,
    prefill_terms,
    steps_of,
)
from tests.bench.scaling_runs import ScalingRuns, StepTime
from tests.bench.scaling_theory import Theory, prompt_positions
from tests.bench.workload import SEED

from cadenza.load._plot import Line, Plot, svg

RESULTS = ROOT / "build" / "bench" / "scaling.json"
IMAGES = ROOT / "docs" / "images"
SHORTEST, LEAST_CONTEXT = 32, 64
LEAST_LONGEST, LEAST_SEQUENCES = 512, 8
PLOTTED_BATCHES = (1, 8, 32)


@dataclasses.dataclass(frozen=True)
class Measured:
    """All times of a run, and the sizes that explain them."""

    theory: Theory
    runner: str
    lanes: int
    step_tokens: int
    prefill: Mapping[int, StepTime]
    decode: Decode


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.longest < LEAST_LONGEST or options.most_sequences < LEAST_SEQUENCES:
        parser.error(f"--longest must be {LEAST_LONGEST} or more, --most-sequences {LEAST_SEQUENCES}: to fit")
    console = Console()
    measured = measure(options)
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M {options.precision}, {measured.runner} runner, {measured.lanes} lanes, steps of at "
        f"most {measured.step_tokens} tokens, seed {SEED}; medians of {options.repeats}"
    )
    for table in (_prefill_table(measured), _decode_table(measured), _terms_table(measured)):
        console.print(table)
    console.print(_growth_table(_growths(measured)))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(_as_json(measured), indent=2), encoding="utf-8")
    console.print(f"results: {RESULTS.relative_to(ROOT)}")
    if options.images:
        for name, plot in plots(measured).items():
            (IMAGES / f"{name}.svg").write_text(svg(plot) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace) -> Measured:
    """Loads a runner with a KV cache that holds the largest batch of the longest contexts."""
    manifest = read_manifest(options.precision)
    theory = Theory.of(manifest)
    batches = _doubling(1, options.most_sequences)
    contexts = _doubling(LEAST_CONTEXT, options.longest)
    kv_bytes = max(batches) * max(contexts) * theory.position_bytes
    runner = load_runner(options.precision, lanes=options.lanes, kv_cache_bytes=kv_bytes)
    try:
        runs = ScalingRuns(runner, manifest.decoder.vocabulary_size, options.repeats)
        return Measured(
            theory=theory,
            runner=runner.name,
            lanes=len(runner.lane_seconds),
            step_tokens=runner.limits.max_step_tokens,
            prefill=runs.prefill(_doubling(SHORTEST, options.longest)),
            decode=runs.decode(batches, contexts),
        )
    finally:
        runner.close()


def plots(measured: Measured) -> dict[str, Plot]:
    """By the file's name."""
    return {
        "scaling-prefill": _prefill_plot(measured),
        "scaling-decode-context": _context_plot(measured),
        "scaling-decode-batch": _batch_plot(measured),
    }


def _prefill_plot(measured: Measured) -> Plot:
    terms, times = prefill_terms(measured.prefill, measured.step_tokens), measured.prefill
    fitted = [
        (float(n), 1e3 * terms.seconds(steps_of(n, measured.step_tokens), n, prompt_positions(n)))
        for n in times
    ]
    return Plot(
        title="Prefill time by prompt length",
        x_label="prompt tokens",
        y_label="milliseconds",
        lines=[
            Line("measured", [(n, 1e3 * time.whole) for n, time in times.items()], marked=True),
            Line("linear layers", [(n, 1e3 * time.linear) for n, time in times.items()], marked=True),
            Line("attention", [(n, 1e3 * time.attention) for n, time in times.items()], marked=True),
            Line("fitted sum of terms", fitted),
        ],
        log_x=True,
        log_y=True,
    )


def _context_plot(measured: Measured) -> Plot:
    contexts = sorted({context for _, context in measured.decode})
    batches = [batch for batch in PLOTTED_BATCHES if (batch, contexts[0]) in measured.decode]
    points = {f"{batch} seq.": [(batch, context) for context in contexts] for batch in batches}
    return _decode_plot(measured, "Decode step by context", "positions of each sequence", points, axis=1)


def _batch_plot(measured: Measured) -> Plot:
    batches = sorted({batch for batch, _ in measured.decode})
    contexts = sorted({context for _, context in measured.decode})
    chosen = contexts[:: max(1, (len(contexts) - 1) // 2)]
    points = {f"{context:,} pos.": [(batch, context) for batch in batches] for context in chosen}
    return _decode_plot(measured, "Decode step by batch", "sequences", points, axis=0)


def _decode_plot(
    measured: Measured,
    title: str,
    x_label: str,
    points: Mapping[str, Sequence[tuple[int, int]]],
    axis: int,
) -> Plot:
    """A measured line, and the fitted one, for each named list of points; `axis` is what x shows of them."""
    terms = decode_terms(measured.decode)
    lines = [
        Line(name, [(p[axis], 1e3 * measured.decode[p].whole) for p in along], marked=True)
        for name, along in points.items()
    ]
    lines += [
        Line("fit", [(p[axis], 1e3 * terms.seconds(1, p[0], p[0] * p[1])) for p in along])
        for along in points.values()
    ]
    return Plot(title, x_label, "milliseconds", lines, log_x=True, log_y=True)


def _prefill_table(measured: Measured) -> Table:
    table = _table("prefill", "prompt tokens", "ms", "linear layers, ms", "attention, ms", "tokens/s")
    for length, time in measured.prefill.items():
        parts = (1e3 * time.whole, 1e3 * time.linear, 1e3 * time.attention, length / time.whole)
        table.add_row(f"{length:,}", *(f"{part:,.1f}" for part in parts))
    return table


def _decode_table(measured: Measured) -> Table:
    batches = sorted({batch for batch, _ in measured.decode})
    table = _table("decode step, ms", "positions", *(f"{batch} sequences" for batch in batches))
    for context in sorted({context for _, context in measured.decode}):
        cells = (1e3 * measured.decode[batch, context].whole for batch in batches)
        table.add_row(f"{context:,}", *(f"{cell:.1f}" for cell in cells))
    return table


def _terms_table(measured: Measured) -> Table:
    """Coefficients, and what rate each would be if theory's operations or bytes were all that it is."""
    theory = measured.theory
    table = _table("fitted terms", "of", "term", "theory", "fitted", "rate")
    prefill = prefill_terms(measured.prefill, measured.step_tokens)
    decode = decode_terms(measured.decode)
    rows = theory.row_operations
    longest, largest = measured.prefill[max(measured.prefill)], measured.decode[max(measured.decode)]
    kinds = (
        ("prefill", prefill, rows, longest),
        ("decode", decode, rows + theory.head_operations, largest),
    )
    for of, terms, row, time in kinds:
        weights = time.readings * theory.weight_bytes
        table.add_row(
            of, "a step", f"{weights / 1e6:,.0f} MB, weights x {time.readings}", f"{1e3 * terms.step:.2f} ms",
            f"{weights / terms.step / 1e9:,.0f} GB/s",
        )  # fmt: skip
        table.add_row(
            of, "a row", f"{row / 1e6:,.0f} M operations", f"{1e6 * terms.row:,.0f} us",
            f"{row / terms.row / 1e9:,.0f} G operations/s",
        )  # fmt: skip
        table.add_row(
            of, "a position", f"{theory.position_operations / 1e3:,.1f} k operations",
            f"{1e9 * terms.position:,.0f} ns",
            f"{theory.position_operations / terms.position / 1e9:,.0f} G operations/s; "
            f"{theory.position_bytes / terms.position / 1e9:,.0f} GB/s",
        )  # fmt: skip
        table.caption = f"{table.caption or ''} {of}: median error {100 * terms.median_error:.1f} %."
    return table


def _growths(measured: Measured) -> list[Growth]:
    prefill = prefill_growth(measured.prefill, measured.theory, measured.step_tokens)
    return prefill + decode_growth(measured.decode, measured.theory)


def _growth_table(growths: Sequence[Growth]) -> Table:
    table = _table("exponents of growth", "what", "over", "measured", "operations", "bytes")
    for one in growths:
        cells = (f"{value:.2f}" for value in (one.measured, one.operations, one.moved))
        table.add_row(one.name, one.points, *cells)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(first, title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _as_json(measured: Measured) -> dict[str, object]:
    return {
        "machine": processor(),
        "runner": measured.runner,
        "lanes": measured.lanes,
        "theory": dataclasses.asdict(measured.theory),
        "prefill": [{"length": n, **dataclasses.asdict(time)} for n, time in measured.prefill.items()],
        "decode": [
            {"batch": batch, "context": context, **dataclasses.asdict(time)}
            for (batch, context), time in measured.decode.items()
        ],
        "prefill_terms": dataclasses.asdict(prefill_terms(measured.prefill, measured.step_tokens)),
        "decode_terms": dataclasses.asdict(decode_terms(measured.decode)),
        "exponents": [dataclasses.asdict(one) for one in _growths(measured)],
    }


def _doubling(first: int, last: int) -> list[int]:
    """first, 2 * first, ... up to last."""
    return list(itertools.takewhile(lambda value: value <= last, (first << i for i in itertools.count())))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("--precision", choices=sorted(ARTIFACTS), default="int8")
    parser.add_argument("--lanes", type=int, default=0, help="0: by the server's rule")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--longest", type=int, default=4096, help="longest prompt and context, tokens")
    parser.add_argument("--most-sequences", type=int, default=32)
    parser.add_argument("--images", action="store_true", help="write docs/images anew")
    return parser


if __name__ == "__main__":
    sys.exit(main())
