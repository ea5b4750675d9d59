"""`python -m tests.bench.swap`: versions are swapped while streams run; nothing of it may be seen in them.

A server polls a folder. Versions 1 (int8) and 2 (float32) of SmolLM2-135M are served one after the other in
the calm, and what they say is written down. Then 16 streams run at all times, and versions 3 (int8),
4 (float32) and 5 (int8) are put into the folder at even intervals, and a broken version 6 at the end. Every
stream must be whole, of one version, and have exactly the tokens that this version says in the calm. The
memory that is resident under the load of a version is compared with that of the version before of the same
precision.
"""

import argparse
import asyncio
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from deploy.demo.models import ARTIFACTS, CACHE
from deploy.demo.serving import ServerProcess, serve
from rich.console import Console
from tests.bench.machine import processor
from tests.bench.workload import SEED, prompts
from tests.checked_streams import CheckedStreams, TokenIds, Work, answers

from cadenza.v1 import completion_pb2_grpc as pb_grpc

MODEL = "smollm2"
PRECISIONS = {1: "int8", 2: "float32", 3: "int8", 4: "float32", 5: "int8"}
STREAMS = 16
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 32, 64, 64
MOST_GROWTH = 1.10
FLAGS = (
    "--models-poll-seconds", "0.5", "--kv-cache-gib", "0.06", "--cache-dir", str(CACHE / "server"),
)  # fmt: skip
_SWAP_SECONDS = 120


@dataclasses.dataclass(frozen=True, slots=True)
class Swap:
    """One version taking the place of another under load."""

    version: int
    load_seconds: float
    """From the folder's completion to the first request that it may answer."""
    unload_seconds: float
    """From then to the end of the version before, its memory given back."""


@dataclasses.dataclass(slots=True)
class Bench:
    """The server, its folder, and what was seen."""

    server: ServerProcess
    folder: Path
    swaps: list[Swap] = dataclasses.field(default_factory=list)
    resident: dict[int, int] = dataclasses.field(default_factory=dict)
    """Bytes under the load of each version."""

    async def swap(self, version: int) -> None:
        """Puts a version into the folder and waits until the one before has ended."""
        begin = time.perf_counter()
        put(version, self.folder)
        await self._said("version_available", version)
        available = time.perf_counter()
        await self._said("version_ended", version - 1)
        self.swaps.append(Swap(version, available - begin, time.perf_counter() - available))

    async def _said(self, event: str, version: int) -> None:
        async with asyncio.timeout(_SWAP_SECONDS):
            while not self.has_said(event, version):  # noqa: ASYNC110 another thread reads the log
                await asyncio.sleep(0.02)

    def has_said(self, event: str, version: int) -> bool:
        """Whether the server's log has it."""
        return any(
            line["event"] == event and line.get("version") == version for line in list(self.server.log)
        )

    def measure(self, version: int) -> None:
        """Notes what is resident now."""
        self.resident[version] = self.server.resident_bytes()


def put(version: int, folder: Path) -> None:
    """Copies an artifact (as links) to the folder, its checksums last, as a copy over a network would."""
    source, target = ARTIFACTS[PRECISIONS[version]], folder / str(version)
    sums = Path("assets.extra") / "SHA256SUMS"
    shutil.copytree(source, target, copy_function=os.symlink, ignore=lambda *_: ["SHA256SUMS"])
    (target / sums).symlink_to(source / sums)


def put_broken(version: int, folder: Path) -> None:
    """A version with one wrong byte."""
    put_as = folder / str(version)
    shutil.copytree(ARTIFACTS["int8"], put_as)
    graph = put_as / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")


async def run(bench: Bench, seconds: float, streams: int) -> CheckedStreams:
    """Swaps evenly within `seconds`, under load."""
    work = Work(prompts(PROMPTS, PROMPT_TOKENS, 49_152), NEW_TOKENS)
    async with grpc.aio.insecure_channel(bench.server.target) as channel:
        stub = pb_grpc.CompletionServiceStub(channel)
        said: dict[str, Sequence[TokenIds]] = {"int8": await answers(stub, MODEL, work)}
        await bench.swap(2)
        said["float32"] = await answers(stub, MODEL, work)
        traffic = CheckedStreams(stub, MODEL, work, lambda version: said[PRECISIONS[version]])
        stop = asyncio.Event()
        running = asyncio.create_task(traffic.run(streams, stop))
        part, begin = seconds / 4, time.perf_counter()
        for index, version in enumerate((3, 4, 5), 1):
            await asyncio.sleep(begin + index * part - time.perf_counter())
            bench.measure(version - 1)
            await bench.swap(version)
        put_broken(6, bench.folder)
        await asyncio.sleep(max(0.0, begin + seconds - time.perf_counter()))
        bench.measure(5)
        stop.set()
        await running
    return traffic


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where anything was seen of the swaps."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.swap", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="in which three swaps happen")
    parser.add_argument("--streams", type=int, default=STREAMS, help="at the same time")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=CACHE) as root:
        folder = Path(root) / MODEL
        put(1, folder)
        with serve({}, "--models", root, *FLAGS) as server:
            bench = Bench(server, folder)
            traffic = asyncio.run(run(bench, options.seconds, options.streams))
            refused = bench.has_said("version_refused", 6)
    return report(bench, traffic, refused=refused)


def report(bench: Bench, traffic: CheckedStreams, *, refused: bool) -> int:
    """Prints what was seen; returns the exit status."""
    console = Console()
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"SmolLM2-135M, server and client on the same cores, seed {SEED}"
    )
    for swap in bench.swaps:
        console.print(
            f"version {swap.version} ({PRECISIONS[swap.version]}): served {swap.load_seconds:.1f} s after it "
            f"was there, the one before ended {swap.unload_seconds:.1f} s later"
        )
    sizes = {version: f"{size / 2**20:.0f} MiB" for version, size in bench.resident.items()}
    growths = {
        version: size / bench.resident[version - 2]
        for version, size in bench.resident.items()
        if version - 2 in bench.resident
    }
    console.print(f"resident by version: {sizes}; by the one before of the same precision: {growths}")
    pauses = sorted(pause for _, pause in traffic.messages)
    console.print(
        f"pause between two messages: median {1000 * pauses[len(pauses) // 2]:.0f} ms, "
        f"p99 {1000 * pauses[len(pauses) * 99 // 100]:.0f} ms, longest {1000 * pauses[-1]:.0f} ms"
    )
    console.print(
        f"whole streams by version: {dict(traffic.by_version)}; failures: {len(traffic.failures)} "
        f"{traffic.failures[:3]}; the broken version was {'' if refused else 'not '}refused"
    )
    within = all(growth <= MOST_GROWTH for growth in growths.values())
    return 0 if refused and within and not traffic.failures and len(growths) == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
