"""Streaming over HTTP against streaming over gRPC: one server, the same prompts, clients on its cores.

Usage: python -m tests.bench.http. Both connect before the clock runs. Throughput = tokens of all streams /
(end of the last - start of all). TTFT runs from the start of all to a stream's first event with text. CPU is
that of server and client by token: it says more than the rest on a machine that others use. Quotients and
differences are medians over rounds.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.demo.models import ARTIFACTS, CACHE
from deploy.demo.serving import ServerProcess, serve
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.bench.machine import processor
from tests.bench.workload import NEW_TOKENS, PROMPT_TOKENS, SEED, prompts

from cadenza.client import Client
from cadenza.load import closed_loop, summarise

LEAST_SHARE = 0.85
MOST_TTFT = 0.010
"""Seconds that HTTP may add."""


@dataclasses.dataclass(frozen=True)
class Round:
    """One burst of streams."""

    tokens_per_second: float
    ttft: float
    """Median of the streams, seconds."""
    cpu: float = 0.0
    """Seconds of processor time of server and client."""


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.http", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    console = Console()
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores; SmolLM2-135M int8, {PROMPT_TOKENS} prompt + "
        f"{NEW_TOKENS} new tokens, greedy, ends ignored, seed {SEED}; {options.rounds} rounds in turn"
    )
    table = Table(title="streaming, medians of rounds")
    columns = [
        "concurrent",
        "gRPC, tokens/s",
        "HTTP, tokens/s",
        "HTTP / gRPC",
        "gRPC TTFT, ms",
        "HTTP - gRPC, ms",
    ]
    for column in (*columns, "gRPC CPU, us/token", "HTTP / gRPC"):
        table.add_column(column, justify="right")
    with serve({"model": ARTIFACTS["int8"]}, "--cache-dir", str(CACHE / "server")) as server:
        for count in options.concurrency:
            table.add_row(str(count), *compare(server, count, options.rounds))
    console.print(table)
    console.print(f"wanted at 32 concurrent: {LEAST_SHARE:.2f} or more, {1000 * MOST_TTFT:.0f} ms or less")


def compare(server: ServerProcess, count: int, rounds: int) -> list[str]:
    """A row of the table; the first round warms both up."""
    with Client(server.target) as client:
        vocabulary = client.models()[0].vocabulary_size
    batch = prompts(count, PROMPT_TOKENS, vocabulary)
    pairs = [
        (
            _timed(server, lambda: over_grpc(server.target, batch)),
            _timed(server, lambda: asyncio.run(over_http(server.http_port, batch))),
        )
        for _ in track(range(rounds + 1), description=f"{count} concurrent", transient=True)
    ]
    kept = pairs[1:]
    shares = [http.tokens_per_second / grpc.tokens_per_second for grpc, http in kept]
    return [
        f"{statistics.median(grpc.tokens_per_second for grpc, _ in kept):.0f}",
        f"{statistics.median(http.tokens_per_second for _, http in kept):.0f}",
        f"{statistics.median(shares):.2f}",
        f"{1000 * statistics.median(grpc.ttft for grpc, _ in kept):.1f}",
        f"{1000 * statistics.median(http.ttft - grpc.ttft for grpc, http in kept):+.1f}",
        f"{1e6 * statistics.median(grpc.cpu for grpc, _ in kept) / (count * NEW_TOKENS):.0f}",
        f"{statistics.median(http.cpu / grpc.cpu for grpc, http in kept):.2f}",
    ]


def _timed(server: ServerProcess, run: Callable[[], Round]) -> Round:
    before = _cpu_seconds(server)
    done = run()
    return dataclasses.replace(done, cpu=_cpu_seconds(server) - before)


def _cpu_seconds(server: ServerProcess) -> float:
    """Of the server and of this process so far (proc(5), utime and stime)."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()


def over_grpc(target: str, batch: Sequence[tuple[int, ...]]) -> Round:
    """All prompts at once by the load tester."""
    options = {"max_tokens": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
    summary = summarise(asyncio.run(closed_loop(target, batch, concurrency=len(batch), options=options)))  # type: ignore[arg-type]
    if summary.errors or summary.ttft is None:
        raise SystemExit(f"requests failed: {summary.errors}")
    return Round(summary.tokens_per_second, summary.ttft.p50)


async def over_http(port: int, batch: Sequence[tuple[int, ...]]) -> Round:
    """All prompts at once, each on a connection of its own, every event parsed.

    As the load tester does, it connects and writes its requests down before the clock runs.
    """
    requests = [_request(prompt) for prompt in batch]
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in batch]
    begin = time.perf_counter()
    streams = await asyncio.gather(
        *(_stream(*connection, request) for connection, request in zip(connections, requests, strict=True))
    )
    seconds = time.perf_counter() - begin
    tokens = sum(tokens for tokens, _ in streams)
    if tokens != len(batch) * NEW_TOKENS:
        raise SystemExit(f"{tokens} tokens came, {len(batch) * NEW_TOKENS} were asked for")
    return Round(tokens / seconds, statistics.median(first for _, first in streams) - begin)


def _request(prompt: Sequence[int]) -> bytes:
    fields = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True}
    fields |= {"cache_prompt": False, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, float]:
    """Tokens by the usage at the end, and when the first event with text came."""
    writer.write(request)
    tokens, first, rest = 0, 0.0, b""
    while piece := await reader.read(1 << 16):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line == b"data: [DONE]":
                writer.close()
                return tokens, first
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                first = first or time.perf_counter()
                tokens = event["usage"]["completion_tokens"] if event["usage"] else tokens
    raise SystemExit("a stream broke off")


if __name__ == "__main__":
    main()
