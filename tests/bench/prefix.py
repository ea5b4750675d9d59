"""`python -m tests.bench.prefix`: what finding a prompt's beginning in the KV cache saves, over real gRPC.

For each of some distinct prefixes of 1,000 tokens two requests follow each other on an idle server: both the
prefix and 16 tokens of their own. TTFT is from the call to the first message with a token, at the client.
Then a conversation of some turns: each finds all full blocks of the turns before.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence

from deploy.demo.models import ARTIFACTS, CACHE
from deploy.demo.serving import serve
from rich.console import Console
from rich.table import Table
from tests.bench.conversation import Turn, converse
from tests.bench.machine import processor
from tests.bench.workload import SEED, prompts

from cadenza.client import Client
from cadenza.server.runner.cpu.options import BLOCK_SIZE

PREFIX_TOKENS = 1000
OWN_TOKENS = 16
LEAST_RATIO = 8.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prefix", description=__doc__)
    parser.add_argument("--prefixes", type=int, default=9)
    options = parser.parse_args(arguments)
    with (
        serve({"model": ARTIFACTS["int8"]}, "--cache-dir", str(CACHE / "server")) as server,
        Client(server.target) as client,
    ):
        ttft(client, prompts(options.prefixes + 1, PREFIX_TOKENS, 49_152)[-1])
        pairs = measure(client, options.prefixes)
        turns = converse(client, BLOCK_SIZE, "Benchmark")
    console = Console()
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M int8 over gRPC, seed {SEED}"
    )
    ratio = statistics.median(first / second for first, second in pairs)
    firsts, seconds = zip(*pairs, strict=True)
    console.print(
        f"TTFT of {PREFIX_TOKENS} + {OWN_TOKENS} tokens, medians of {len(pairs)} prefixes: first "
        f"{1000 * statistics.median(firsts):.0f} ms, second {1000 * statistics.median(seconds):.1f} ms; "
        f"first / second: median {ratio:.1f}, least "
        f"{min(first / second for first, second in pairs):.1f} (at least {LEAST_RATIO:.0f} wanted)"
    )
    console.print(_table(turns))
    exact = all(turn.cached == turn.expected for turn in turns)
    return 0 if ratio >= LEAST_RATIO and exact else 1


def measure(client: Client, count: int) -> list[tuple[float, float]]:
    """TTFT of the first and of the second request of each prefix, seconds."""
    tails = iter(prompts(2 * count, OWN_TOKENS, 49_152))
    return [
        (ttft(client, (*prefix, *next(tails))), ttft(client, (*prefix, *next(tails))))
        for prefix in prompts(count, PREFIX_TOKENS, 49_152)
    ]


def ttft(client: Client, prompt: tuple[int, ...]) -> float:
    """Seconds from the call to the first token."""
    begin = time.perf_counter()
    with client.stream(prompt, max_tokens=4, temperature=0.0, ignore_eos=True) as stream:
        for chunk in stream:
            if chunk.token_ids:
                return time.perf_counter() - begin
    raise SystemExit("a stream had no token")


def _table(turns: Sequence[Turn]) -> Table:
    table = Table("turn", title="a conversation")
    for column in ("prompt tokens", "cached", "full blocks of earlier turns", "TTFT, ms"):
        table.add_column(column, justify="right")
    for number, turn in enumerate(turns, 1):
        cells = (turn.prompt_tokens, turn.cached, turn.expected, f"{1000 * turn.ttft:.1f}")
        table.add_row(str(number), *map(str, cells))
    return table


if __name__ == "__main__":
    sys.exit(main())
