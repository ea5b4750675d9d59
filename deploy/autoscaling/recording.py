"""The metrics of a load as they were recorded: what an autoscaler would have seen.

Two forms are read: the answer of Prometheus to a range query (`/api/v1/query_range`) of the metrics, and
the report that `cadenza load --json` writes.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_ACROSS_MODELS: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {
    "cadenza_num_requests_waiting": sum,
    "cadenza_kv_cache_usage_ratio": max,
}
"""How the series of one pod become its figure, as the adapter's rules of docs/operate.md have it."""
_IN_REPORT: Final = {
    "cadenza_num_requests_waiting": "waiting",
    "cadenza_kv_cache_usage_ratio": "kv_cache_usage",
}


class RecordingError(Exception):
    """A recording cannot be read; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """All pods at one moment."""

    at: float
    """Seconds since the recording began."""
    totals: Mapping[str, int]
    """By metric, the sum over the pods that there were, in thousandths."""


def read_recording(path: Path) -> list[Sample]:
    """The samples of a file of either form, in order. Raises RecordingError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordingError(f"cannot read {path}: {error}") from error
    match document:
        case {"status": "success", "data": {"resultType": "matrix", "result": series}}:
            samples = _of_range_query(series)
        case {"runs": runs}:
            samples = _of_report(runs)
        case _:
            raise RecordingError(
                f"{path} is neither an answer of /api/v1/query_range nor a report of `cadenza load --json`"
            )
    if not samples:
        raise RecordingError(f"{path} has no samples of {' and '.join(_ACROSS_MODELS)}")
    return samples


def _of_range_query(series: Sequence[Mapping[str, Any]]) -> list[Sample]:
    pods: dict[float, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for one in series:
        labels = one["metric"]
        pod = labels.get("pod") or labels.get("instance", "")
        for at, value in one["values"]:
            pods[float(at)][labels.get("__name__", "")][pod].append(float(value))
    begin = min(pods, default=0.0)
    return [Sample(at - begin, _totals(metrics)) for at, metrics in sorted(pods.items())]


def _totals(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, int]:
    return {
        name: sum(round(1000 * across(values)) for values in metrics[name].values())
        for name, across in _ACROSS_MODELS.items()
        if name in metrics
    }


def _of_report(runs: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """One server's; the runs of a sweep one after the other."""
    samples: list[Sample] = []
    for run in runs:
        begin = samples[-1].at if samples else 0.0
        for one in (run["server"] or {}).get("samples", ()):
            totals = {name: round(1000 * one[field]) for name, field in _IN_REPORT.items()}
            samples.append(Sample(begin + one["at"], totals))
    return samples
