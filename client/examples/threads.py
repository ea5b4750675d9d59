"""Complete every line of stdin, eight at a time, with one client and a pool of threads."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from cadenza.client import Client, Completion

with (
    Client(os.environ.get("CADENZA_TARGET", "localhost:8500")) as client,
    ThreadPoolExecutor(max_workers=8) as pool,
):
    greedy = client.with_options(temperature=0, max_tokens=32)

    def complete(line: str) -> Completion:
        """The completion of one line."""
        return greedy.complete(line)

    lines = sys.stdin.read().splitlines() or ["The quick brown fox", "The capital of France is"]
    for line, completion in zip(lines, pool.map(complete, lines), strict=True):
        print(f"{line} ->{completion.text}")
