"""`python -m deploy.autoscaling RECORDING`: to how many pods a recorded load would have scaled, and when.

RECORDING is what `cadenza load --json` wrote of a run with /metrics, or an answer of Prometheus:

  curl --data-urlencode 'query={__name__=~"cadenza_num_requests_waiting|cadenza_kv_cache_usage_ratio"}' \\
       --data 'start=...&end=...&step=15' http://prometheus:9090/api/v1/query_range > recording.json
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from deploy.autoscaling.autoscaler import Autoscaler, AutoscalerError, read_autoscaler
from deploy.autoscaling.recording import RecordingError, Sample, read_recording
from deploy.autoscaling.replay import SYNC_SECONDS, TOLERANCE, Decision, replay
from deploy.demo.models import ROOT
from deploy.demo.packages import FetchError
from deploy.setup.helm import ensure_helm


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.autoscaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument(
        "--replicas", type=int, help="pods at first; the autoscaler's minimum where it is left out"
    )
    parser.add_argument(
        "--hpa", type=Path, help="the autoscaler as YAML; the chart's own where it is left out"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a value of the chart"
    )
    options = parser.parse_args(arguments)
    try:
        autoscaler = read_autoscaler(
            yaml.safe_load(options.hpa.read_text() if options.hpa else chart_hpa(options.set))
        )
        samples = read_recording(options.recording)
    except (OSError, AutoscalerError, RecordingError, FetchError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    decisions = replay(autoscaler, samples, options.replicas or autoscaler.min_replicas)
    print(table(autoscaler, samples, decisions))
    return 0


def chart_hpa(values: Sequence[str] = ()) -> str:
    """The autoscaler of the chart as YAML, with such values. Raises FetchError and CalledProcessError."""
    settings = [flag for value in ("autoscaling.mode=hpa", *values) for flag in ("--set", value)]
    chart = ROOT / "deploy" / "helm" / "cadenza"
    command = [str(ensure_helm()), "template", "cadenza", str(chart), *settings]
    command += ["--show-only", "templates/autoscaling.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def table(autoscaler: Autoscaler, samples: Sequence[Sample], decisions: Sequence[Decision]) -> str:
    """What was decided, a line for each turn at which something changed, and the formulas."""
    targets = ", ".join(f"{name} {target / 1000:g}" for name, target in autoscaler.targets.items())
    lines = [
        f"{len(samples)} samples over {samples[-1].at:.0f} s",
        f"{autoscaler.min_replicas} to {autoscaler.max_replicas} pods",
        f"targets per pod: {targets}",
        "desired = ceil(pods * average / target), average = total / pods; the largest of all metrics",
        f"every {SYNC_SECONDS} s, tolerance {TOLERANCE}",
        "totals are as recorded: more pods would have lowered them",
        "",
        f"{'at s':>6} {'wanted':>7} {'stable':>7} {'pods':>5}",
    ]
    shown: tuple[int, int, int] | None = None
    for one in decisions:
        figures = one.wanted, one.stabilized, one.after
        if figures != shown:
            lines.append(f"{one.at:>6.0f} {one.wanted:>7} {one.stabilized:>7} {one.after:>5}")
        shown = figures
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
