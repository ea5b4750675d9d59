"""`python -m tests.bench.static_batch`: the TensorFlow runner on this CPU against a static batch.

The same prompts, greedy, float32, ends ignored: as concurrent streams to a server with `--runner tensorflow
--device cpu`, over gRPC with the client on the same cores; and as one batch of `generate` in transformers
(PyTorch). Both are there all the time and run in turn, round by round; the first round is not counted. Needs
the oracle's environment, which `make parity` makes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.demo.models import ARTIFACTS, CACHE, PACKAGES, SMOLLM2
from deploy.demo.packages import fetch
from deploy.demo.serving import serve
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.bench.__main__ import run_served
from tests.bench.machine import processor
from tests.bench.workload import NEW_TOKENS, PROMPT_TOKENS, SEED, prompts

STREAMS = 32
FLAGS = (
    "--runner", "tensorflow", "--device", "cpu", "--precision", "float32",
    "--max-sequences", str(STREAMS), "--kv-cache-gib", "0.2",
    "--max-step-tokens", "256", "--mixed-prefill-tokens", "256",
)  # fmt: skip
READY_SECONDS = 1200.0
PYTHON = CACHE / "parity-venv" / "bin" / "python"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where streams are slower, or something was compiled under load."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.static_batch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--artifact", type=Path, default=ARTIFACTS["float32"])
    options = parser.parse_args(arguments)
    batch = prompts(STREAMS, PROMPT_TOKENS, 49_152)
    streams, static = [], []
    with (
        serve({"model": options.artifact}, *FLAGS, timeout=READY_SECONDS) as server,
        static_batch() as generate,
    ):
        warm = compilations(server.http_port)
        for _ in track(range(options.rounds + 1), description="rounds", transient=True):
            streams.append(run_served(server.target, batch))
            static.append(STREAMS * NEW_TOKENS / generate.seconds(batch))
        grown = compilations(server.http_port) - warm
    console = Console()
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M float32, {STREAMS} x ({PROMPT_TOKENS} prompt + {NEW_TOKENS} new tokens), greedy, "
        f"seed {SEED}; READY after {server.ready_seconds:.0f} s with {warm} programs compiled, "
        f"{grown} more under load"
    )
    ratio = statistics.median(one / other for one, other in zip(streams[1:], static[1:], strict=True))
    console.print(_table(streams[1:], static[1:]))
    console.print(
        f"streams / static batch: median of {options.rounds} rounds {ratio:.2f} (at least 1 wanted)"
    )
    return 0 if ratio >= 1 and not grown else 1


class StaticBatch:
    """A process that generates for a batch at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def seconds(self, batch: Sequence[Sequence[int]]) -> float:
        """How long the whole batch took."""
        return float(self._ask(json.dumps(batch)))

    def _ask(self, line: str) -> str:
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("the process has no pipes")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def static_batch() -> Iterator[StaticBatch]:
    """The process, its model loaded."""
    command = [str(PYTHON), "-m", "tests.bench.static_batch_torch", str(fetch(SMOLLM2, PACKAGES))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise SystemExit("transformers did not start; run `make parity` once for its environment")
        yield StaticBatch(process)
        if process.stdin is not None:
            process.stdin.close()


def compilations(http_port: int) -> int:
    """What cadenza_xla_compilations_total says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    name = "cadenza_xla_compilations_total{"
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)))


def _table(streams: Sequence[float], static: Sequence[float]) -> Table:
    table = Table(title="tokens/s in all")
    for column in ("round", "streams", "static batch", "ratio"):
        table.add_column(column, justify="right")
    for number, (one, other) in enumerate(zip(streams, static, strict=True), 1):
        table.add_row(str(number), f"{one:.0f}", f"{other:.0f}", f"{one / other:.2f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
