"""`python -m tests.bench.overload`: ten times more requests than the server can answer.

Peak goodput: a closed loop of 64 requests, as many as run at once. Overload: requests arrive at 10 times that
rate, evenly, each with a deadline. Goodput: requests a second that finish within their deadline. What begins
together ends together, so a request counts by the part of its run, from first step to end, that lies in the
window; a window begins 10 s after its load. Refusals are answers QUEUE_FULL and DEADLINE_UNREACHABLE; their
latency is measured at the client, of all of them. Prompts are distinct, greedy, and ends are ignored.
"""

import argparse
import collections
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from deploy.demo.models import ARTIFACTS, CACHE
from deploy.demo.serving import serve
from rich.console import Console
from tests.bench.machine import processor
from tests.bench.overload_client import FINISHED, Record
from tests.bench.workload import SEED

from cadenza.load import Percentiles, percentiles

CONCURRENCY = 64
NEW_TOKENS = 256
OVERLOAD = 10
WARM_SECONDS = 10.0
MOST_REFUSAL_SECONDS = 0.050
LEAST_SHARE = 0.9
_REFUSALS = ("QUEUE_FULL", "DEADLINE_UNREACHABLE")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a load saw."""

    endings: dict[str, int]
    goodput: float
    """Requests a second."""
    refusals: Percentiles | None
    """Seconds."""
    latency: Percentiles | None
    """Of requests that finished, seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the overload's window")
    parser.add_argument("--peak-seconds", type=float, default=40.0, help="length of the peak's window")
    parser.add_argument(
        "--patience", type=float, default=3.0, help="each deadline, by the median latency at the peak"
    )
    parser.add_argument(
        "--new-tokens",
        type=int,
        default=NEW_TOKENS,
        help="of each request; the default is the median of chat replies",
    )
    options = parser.parse_args(arguments)
    console = Console()
    with serve({"model": ARTIFACTS["int8"]}, "--cache-dir", str(CACHE / "server")) as server:
        before = _peak(server.target, options)
        rate = OVERLOAD * before.goodput
        if before.latency is None:
            raise SystemExit(f"nothing finished in the closed loop: {before.endings}")
        deadline = options.patience * before.latency.p50
        flags = ("--rate", str(rate), "--deadline", str(deadline), "--new-tokens", str(options.new_tokens))
        overload = _run(server.target, options.seconds, *flags)
        after = _peak(server.target, options)
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M int8, server and client on the same cores, seed {SEED}"
    )
    peak = max(before.goodput, after.goodput)
    console.print(f"64 prompt tokens, {options.new_tokens} new ones")
    console.print(
        f"peak: {before.goodput:.2f} requests/s before, {after.goodput:.2f} after "
        f"({peak * options.new_tokens:.0f} tokens/s), latency {_text(before.latency)}"
    )
    share = overload.goodput / peak
    console.print(
        f"overload: {rate:.0f} requests/s for {options.seconds:.0f} s, deadline {deadline:.1f} s: "
        f"{overload.endings}\ngoodput {overload.goodput:.2f} requests/s = {share:.2f} of the peak (at least "
        f"{LEAST_SHARE} wanted), latency {_text(overload.latency)}\n"
        f"refusals {_text(overload.refusals)} (p99 below {1000 * MOST_REFUSAL_SECONDS:.0f} ms wanted)"
    )
    within = overload.refusals is not None and overload.refusals.p99 < MOST_REFUSAL_SECONDS
    return 0 if within and share >= LEAST_SHARE else 1


def _peak(target: str, options: argparse.Namespace) -> Outcome:
    flags = ("--concurrency", str(CONCURRENCY), "--new-tokens", str(options.new_tokens))
    return _run(target, options.peak_seconds, *flags)


def _run(target: str, seconds: float, *flags: str) -> Outcome:
    whole = WARM_SECONDS + seconds
    command = [sys.executable, "-m", "tests.bench.overload_client", target, "--seconds", str(whole), *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return outcome([tuple(record) for record in json.loads(output)], WARM_SECONDS, whole)


def outcome(records: Sequence[Record], begin: float, end: float) -> Outcome:
    """The figures of a load; the window is [begin, end)."""
    finished = [record for record in records if record[3] == FINISHED]
    in_window = sum(
        _share(start + queue, start + seconds, begin, end) for start, queue, seconds, _ in finished
    )
    return Outcome(
        endings=dict(collections.Counter(how for *_, how in records)),
        goodput=in_window / (end - begin),
        refusals=percentiles([seconds for *_, seconds, how in records if how in _REFUSALS]),
        latency=percentiles([seconds for *_, seconds, _ in finished]),
    )


def _share(first: float, last: float, begin: float, end: float) -> float:
    """How much of [first, last] lies in [begin, end]."""
    return max(0.0, min(last, end) - max(first, begin)) / (last - first)


def _text(values: Percentiles | None) -> str:
    if values is None:
        return "-"
    return f"p50 {1000 * values.p50:.1f} ms, p90 {1000 * values.p90:.1f} ms, p99 {1000 * values.p99:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
