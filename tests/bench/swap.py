"""`python -m tests.bench.swap`: versions are swapped while streams run; nothing of it may be seen in them.

A server polls a folder. Two kinds of versions take turns: SmolLM2-135M in int8 and in float32, or, with
`--runner tensorflow`, two small models with random weights, which XLA compiles in seconds. Versions 1 and 2
are served one after the other in the calm, and what they say is written down. Then 16 streams run at all
times, and versions 3, 4 and 5 are put into the folder at even intervals, and a broken version 6 at the end.
Every stream must be whole, of one version, and have exactly the tokens that this version says in the calm.
The memory that is resident under the load of a version, the server's and its processes', is compared with
that of the version before of the same kind.
"""

import argparse
import asyncio
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from deploy.demo.models import ARTIFACTS, CACHE
from deploy.demo.serving import ServerProcess, serve
from rich.console import Console
from tests.bench.machine import processor
from tests.bench.workload import SEED, prompts
from tests.checked_streams import CheckedStreams, TokenIds, Work, answers

from cadenza.v1 import completion_pb2_grpc as pb_grpc

STREAMS = 16
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 32, 64, 64
MOST_GROWTH = 1.10
_READY_SECONDS = 250
_SWAP_SECONDS = 250


@dataclasses.dataclass(frozen=True, slots=True)
class Versions:
    """What is swapped: two artifacts in turn, the first as version 1."""

    model: str
    vocabulary: int
    artifacts: Mapping[str, Path]
    """By what they are called here."""
    flags: tuple[str, ...]

    def kind(self, version: int) -> str:
        """The name of its artifact."""
        return list(self.artifacts)[(version - 1) % len(self.artifacts)]

    def put(self, version: int, folder: Path) -> None:
        """Copies an artifact (as links) to the folder, its checksums last, as a copy over a network would."""
        source, target = self.artifacts[self.kind(version)], folder / str(version)
        sums = Path("assets.extra") / "SHA256SUMS"
        shutil.copytree(source, target, copy_function=os.symlink, ignore=lambda *_: ["SHA256SUMS"])
        (target / sums).symlink_to(source / sums)

    def put_broken(self, version: int, folder: Path) -> None:
        """A version with one wrong byte."""
        put_as = folder / str(version)
        shutil.copytree(self.artifacts[self.kind(version)], put_as)
        graph = put_as / "saved_model.pb"
        graph.write_bytes(graph.read_bytes()[:-1] + b"x")


_POLL = ("--models-poll-seconds", "0.5")
SMOLLM2 = Versions(
    "smollm2",
    49_152,
    {"int8": ARTIFACTS["int8"], "float32": ARTIFACTS["float32"]},
    (*_POLL, "--kv-cache-gib", "0.06", "--cache-dir", str(CACHE / "server")),
)
ON_TENSORFLOW = (
    *_POLL, "--runner", "tensorflow", "--device", "cpu", "--kv-cache-gib", "0.06",
    "--max-sequences", "4", "--max-step-tokens", "16",
)  # fmt: skip
"""Flags for a small model on TensorFlow: few shapes, so that it loads in seconds."""


def small_on_tensorflow(folder: Path) -> Versions:
    """Two models of 400 tokens and a context of 128, exported into the folder."""
    from tests.export import tiny

    from cadenza.export.exporter import export
    from cadenza.export.model import Precision

    sizes, artifacts = tiny.Tiny(), {}
    for name, seed in (("seed 7", 7), ("seed 8", 8)):
        source = folder / f"source-{seed}"
        tiny.write_hugging_face(source, sizes, tiny.random_weights(sizes, seed))
        artifacts[name] = folder / str(seed)
        export(source, artifacts[name], Precision.FLOAT32)
    return Versions("tiny", sizes.vocabulary, artifacts, ON_TENSORFLOW)


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
    versions: Versions
    folder: Path
    swaps: list[Swap] = dataclasses.field(default_factory=list)
    resident: dict[int, int] = dataclasses.field(default_factory=dict)
    """Bytes under the load of each version."""

    async def swap(self, version: int) -> None:
        """Puts a version into the folder and waits until the one before has ended."""
        begin = time.perf_counter()
        self.versions.put(version, self.folder)
        await self.said("version_available", version)
        available = time.perf_counter()
        await self.said("version_ended", version - 1)
        self.swaps.append(Swap(version, available - begin, time.perf_counter() - available))

    async def said(self, event: str, version: int) -> None:
        """Waits until the server's log has it."""
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


async def run(bench: Bench, seconds: float, streams: int) -> CheckedStreams:
    """Swaps evenly within `seconds`, under load."""
    versions = bench.versions
    work = Work(prompts(PROMPTS, PROMPT_TOKENS, versions.vocabulary), NEW_TOKENS)
    async with grpc.aio.insecure_channel(bench.server.target) as channel:
        stub = pb_grpc.CompletionServiceStub(channel)
        said: dict[str, Sequence[TokenIds]] = {versions.kind(1): await answers(stub, versions.model, work)}
        await bench.swap(2)
        said[versions.kind(2)] = await answers(stub, versions.model, work)
        traffic = CheckedStreams(stub, versions.model, work, lambda version: said[versions.kind(version)])
        stop = asyncio.Event()
        running = asyncio.create_task(traffic.run(streams, stop))
        part, begin = seconds / 4, time.perf_counter()
        for index, version in enumerate((3, 4, 5), 1):
            await asyncio.sleep(max(0.0, begin + index * part - time.perf_counter()))
            bench.measure(version - 1)
            await bench.swap(version)
        versions.put_broken(6, bench.folder)
        await bench.said("version_refused", 6)
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
    parser.add_argument("--runner", choices=("litert", "tensorflow"), default="litert")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=CACHE) as root:
        versions = SMOLLM2 if options.runner == "litert" else small_on_tensorflow(Path(root) / "exports")
        folder = Path(root) / "models" / versions.model
        versions.put(1, folder)
        with serve({}, "--models", str(folder.parent), *versions.flags, timeout=_READY_SECONDS) as server:
            bench = Bench(server, versions, folder)
            traffic = asyncio.run(run(bench, options.seconds, options.streams))
    return report(bench, traffic)


def report(bench: Bench, traffic: CheckedStreams) -> int:
    """Prints what was seen; returns the exit status."""
    console = Console()
    console.print(
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; "
        f"{bench.versions.model}, server and client on the same cores, seed {SEED}"
    )
    for swap in bench.swaps:
        console.print(
            f"version {swap.version} ({bench.versions.kind(swap.version)}): served {swap.load_seconds:.1f} s "
            f"after it was there, the one before ended {swap.unload_seconds:.1f} s later"
        )
    sizes = {version: f"{size / 2**20:.0f} MiB" for version, size in bench.resident.items()}
    growths = {
        version: size / bench.resident[version - 2]
        for version, size in bench.resident.items()
        if version - 2 in bench.resident
    }
    console.print(f"resident by version: {sizes}; by the one before of the same kind: {growths}")
    pauses = sorted(pause for _, pause in traffic.messages)
    console.print(
        f"pause between two messages: median {1000 * pauses[len(pauses) // 2]:.0f} ms, "
        f"p99 {1000 * pauses[len(pauses) * 99 // 100]:.0f} ms, longest {1000 * pauses[-1]:.0f} ms"
    )
    console.print(
        f"whole streams by version: {dict(traffic.by_version)}; failures: {len(traffic.failures)} "
        f"{traffic.failures[:3]}; the broken version was refused"
    )
    within = all(growth <= MOST_GROWTH for growth in growths.values())
    return 0 if within and not traffic.failures and len(growths) == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
