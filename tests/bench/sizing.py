"""`python -m tests.bench.sizing`: what known models take of known devices, by the server's own arithmetic.

Prints the table of docs/devices.md. Weights, KV cache and workspace are runner/tensorflow/sizing.py's; the
roofline is the least time of a decode step, in which every sequence gets one token:

    bytes = weights + batch * context * KV bytes per token        over the memory's bandwidth
    flops = (2 * parameters + 4 * layers * heads * head size * context) * batch        over peak bfloat16
    tokens/s = batch / max(bytes time, flops time)

Sharded rows divide weights, KV cache and flops evenly and count no communication; this is not built.
"""

import dataclasses
from collections.abc import Iterator

from cadenza.server.runner.base import RunnerLimits
from cadenza.server.runner.tensorflow.sizing import BLOCK_SIZE, token_bytes, weight_bytes, workspace_bytes
from cadenza.v1.manifest_pb2 import DecoderShape

FRACTION = 0.9
"""--device-memory-fraction, the default."""
CONTEXT = 1024
"""Tokens of a sequence, prompt and completion, for batch and roofline."""
HEADER = (
    "| model | devices | precision | weights/device | KV/token | workspace | KV tokens/device "
    f"| batch of {CONTEXT} | roofline tokens/s |"
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A published model."""

    name: str
    parameters: int
    shape: DecoderShape


@dataclasses.dataclass(frozen=True)
class Device:
    """One GPU or TPU chip, by its data sheet."""

    name: str
    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes per second."""
    flops: float
    """Dense bfloat16."""
    max_step_tokens: int
    """--max-step-tokens and --max-sequences that suit it."""
    max_sequences: int


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a model takes of each device, and gives together."""

    weights: int
    workspace: int
    kv_tokens: int
    batch: int
    """On all devices together."""
    tokens_per_second: float


MODELS = (
    Model("GPT-2 XL", 1_557_611_200, DecoderShape(
        num_layers=48, hidden_size=1600, num_heads=25, num_kv_heads=25, head_dim=64,
        vocabulary_size=50257, max_context=1024)),
    Model("Llama-3-8B", 8_030_261_248, DecoderShape(
        num_layers=32, hidden_size=4096, num_heads=32, num_kv_heads=8, head_dim=128,
        vocabulary_size=128256, max_context=8192)),
    Model("GPT-3 175B", 174_604_259_328, DecoderShape(
        num_layers=96, hidden_size=12288, num_heads=96, num_kv_heads=96, head_dim=128,
        vocabulary_size=50257, max_context=2048)),
)  # fmt: skip
H100 = Device("80 GB GPU", 80 * 10**9, 3.35e12, 989e12, max_step_tokens=512, max_sequences=256)
"""H100 SXM5: NVIDIA's data sheet."""
V5E = Device("TPU v5e", 16 * 2**30, 819e9, 197e12, max_step_tokens=256, max_sequences=64)
"""Per chip: cloud.google.com/tpu/docs/v5e."""
PLACES = ((H100, 1), (H100, 8), (V5E, 1), (V5E, 8), (V5E, 64))


def fit(model: Model, device: Device, precision: str, shards: int, replicas: int) -> Fit:
    """A model on `replicas` groups of `shards` devices each. No KV tokens where it does not fit."""
    shape = model.shape
    sequences = shards * device.max_sequences
    limits = RunnerLimits(
        block_size=BLOCK_SIZE,
        num_blocks=sequences * shape.max_context // BLOCK_SIZE,
        max_step_tokens=shards * device.max_step_tokens,
        max_sequences=sequences,
        max_context=shape.max_context,
    )
    weights = weight_bytes(model.parameters, precision) // shards
    workspace = workspace_bytes(shape, precision, limits) // shards
    per_token = token_bytes(shape, precision) / shards
    left = FRACTION * device.memory - weights - workspace
    kv_tokens = max(0, int(left / (per_token * BLOCK_SIZE))) * BLOCK_SIZE
    context = min(CONTEXT, shape.max_context)
    batch = min(sequences, kv_tokens // context)
    read = weights + batch * context * per_token
    attention = 4 * shape.num_layers * shape.num_heads * shape.head_dim * context
    flops = (2 * model.parameters + attention) * batch / shards
    seconds = max(read / device.bandwidth, flops / device.flops)
    return Fit(weights, workspace, kv_tokens, batch * replicas, replicas * batch / seconds)


def rows() -> Iterator[str]:
    """The table's lines, in Markdown."""
    yield HEADER
    yield "| --- " * HEADER.count(" |") + "|"
    for model in MODELS:
        for device, count in PLACES:
            yield from _lines(model, device, count)


def _lines(model: Model, device: Device, count: int) -> Iterator[str]:
    """Replicas in bfloat16 and int8 where one device holds the model, else shards of it."""
    for precision in ("bfloat16", "int8"):
        alone = fit(model, device, precision, shards=1, replicas=count)
        if alone.batch:
            yield _line(model, device, f"{count} replicas" if count > 1 else "1", precision, alone)
        elif count > 1:
            together = fit(model, device, precision, shards=count, replicas=1)
            yield _line(model, device, f"{count} shards (not built)", precision, together)
        else:
            yield _line(model, device, "1", precision, alone)


def _line(model: Model, device: Device, places: str, precision: str, found: Fit) -> str:
    kib = token_bytes(model.shape, precision) / 2**10
    cells = [
        model.name,
        f"{device.name}: {places}",
        precision,
        f"{found.weights / 1e9:.1f} GB",
        f"{kib:.0f} KiB",
    ]
    cells.append(f"{found.workspace / 1e9:.1f} GB")
    if found.batch:
        cells += [f"{found.kv_tokens:,}", f"{found.batch:,}", f"{found.tokens_per_second:,.0f}"]
    else:
        cells += ["does not fit", "", ""]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    for line in rows():
        print(line)


if __name__ == "__main__":
    main()
