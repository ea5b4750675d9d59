"""How measured times grow, beside what theory says: fitted terms, and exponents."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from tests.bench.fitting import exponent, fit_terms
from tests.bench.scaling_runs import StepTime
from tests.bench.scaling_theory import Theory, prompt_positions

Decode = Mapping[tuple[int, int], StepTime]
"""Times by sequences and positions of each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """seconds = step * steps + row * rows + position * positions, of a prompt or of a decode step."""

    step: float
    row: float
    position: float
    median_error: float
    """|estimate / measured - 1| over the points of the fit."""

    def seconds(self, steps: int, rows: int, positions: int) -> float:
        """The formula."""
        return self.step * steps + self.row * rows + self.position * positions


@dataclasses.dataclass(frozen=True, slots=True)
class Growth:
    """Exponents of one series over the same points: as measured, of its operations and of its bytes."""

    name: str
    points: str
    measured: float
    operations: float
    moved: float


def steps_of(length: int, step_tokens: int) -> int:
    """How many steps a prompt takes."""
    return -(-length // step_tokens)


def prefill_terms(times: Mapping[int, StepTime], step_tokens: int) -> Terms:
    """Of prompts by length. A step reads the weights, whether it has `step_tokens` rows or fewer."""
    counts = [(steps_of(length, step_tokens), length, prompt_positions(length)) for length in times]
    return _fit(counts, [time.whole for time in times.values()])


def decode_terms(times: Decode) -> Terms:
    """Of decode steps that read the weights as often as the largest does."""
    readings = times[max(times)].readings
    kept = {point: time for point, time in times.items() if time.readings == readings}
    counts = [(1, batch, batch * context) for batch, context in kept]
    return _fit(counts, [time.whole for time in kept.values()])


def _fit(counts: Sequence[tuple[int, int, int]], seconds: Sequence[float]) -> Terms:
    features, values = np.array(counts, np.float64), np.array(seconds)
    found = fit_terms(features, values)
    errors: NDArray[np.float64] = np.abs(features @ found / values - 1)
    step, row, position = found.tolist()
    return Terms(step, row, position, float(np.median(errors)))


def prefill_growth(times: Mapping[int, StepTime], theory: Theory, step_tokens: int) -> list[Growth]:
    """Over prompts of one step and more: shorter ones take one reading of the weights, however short."""
    lengths = [length for length in times if length >= step_tokens]
    taken = [times[length] for length in lengths]
    points = f"prompts of {lengths[0]:,} to {lengths[-1]:,}"
    positions = [prompt_positions(length) for length in lengths]
    linear = [theory.row_operations * length for length in lengths]
    weights = [theory.weight_bytes * steps_of(length, step_tokens) for length in lengths]
    attention = [theory.position_operations * count for count in positions]
    cache = [theory.position_bytes * count for count in positions]
    parts = {
        "prefill, linear layers": ([time.linear for time in taken], linear, weights),
        "prefill, attention": ([time.attention for time in taken], attention, cache),
        "prefill": ([time.whole for time in taken], _sums(linear, attention), _sums(weights, cache)),
    }
    return [_growth(name, points, lengths, *series) for name, series in parts.items()]


def decode_growth(times: Decode, theory: Theory) -> list[Growth]:
    """By context at the largest batch, and by batch at the least context."""
    batches, contexts = sorted({b for b, _ in times}), sorted({c for _, c in times})
    most, least = batches[-1], contexts[0]
    by_context = {point: times[point] for point in [(most, context) for context in contexts]}
    by_batch = {point: times[point] for point in [(batch, least) for batch in batches]}
    over_contexts = f"{most} sequences, {least:,} to {contexts[-1]:,} positions"
    over_batches = f"{batches[0]} to {most} sequences, {least:,} positions"
    attended = [batch * context for batch, context in by_context]
    attention = [time.attention for time in by_context.values()]
    return [
        _growth("decode, attention, by context", over_contexts, contexts, attention, attended, attended),
        _growth("decode, by context", over_contexts, contexts, *_decode_series(by_context, theory)),
        _growth("decode, by batch", over_batches, batches, *_decode_series(by_batch, theory)),
    ]


def _decode_series(times: Decode, theory: Theory) -> tuple[list[float], list[int], list[int]]:
    """Seconds, operations and bytes of whole steps."""
    per_row = theory.row_operations + theory.head_operations
    return (
        [time.whole for time in times.values()],
        [batch * (per_row + theory.position_operations * context) for batch, context in times],
        [
            time.readings * theory.weight_bytes + theory.position_bytes * batch * context
            for (batch, context), time in times.items()
        ],
    )


def _growth(
    name: str,
    points: str,
    xs: Sequence[int],
    seconds: Sequence[float],
    operations: Sequence[int],
    moved: Sequence[int],
) -> Growth:
    return Growth(name, points, *(exponent(xs, ys) for ys in (seconds, operations, moved)))


def _sums(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]
