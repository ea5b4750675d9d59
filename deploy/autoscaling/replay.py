"""What a HorizontalPodAutoscaler would have done to a recorded load.

Follows the controller of Kubernetes (pkg/controller/podautoscaler: replica_calculator.go, horizontal.go).
Every SYNC_SECONDS, for each metric: average = total / replicas; desired = ceil(replicas * average /
target), or no change within the tolerance. The largest counts. It is held back by the stabilisation
windows, then by the policies.

The recorded totals stay as they were: that more pods would have emptied the queue sooner is not in it, so
what comes out is the most that it would have scaled to.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

from deploy.autoscaling.autoscaler import Autoscaler, Policy, Rules
from deploy.autoscaling.recording import Sample

SYNC_SECONDS: Final = 15
TOLERANCE: Final = 0.1
"""Defaults of kube-controller-manager."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """One turn of the controller."""

    at: float
    """Seconds since the recording began."""
    before: int
    """Replicas."""
    wanted: int
    """By the metrics alone."""
    stabilized: int
    """By the recommendations of the windows too."""
    after: int
    """Within policies and limits: what there is from then on."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    at: float
    replicas: int
    """So many more; fewer where it is negative."""


class Replay:
    """The controller's memory of one autoscaler. Feed it samples in order of time."""

    def __init__(self, autoscaler: Autoscaler, replicas: int, tolerance: float = TOLERANCE) -> None:
        """`replicas` is how many pods there are at first."""
        self._autoscaler = autoscaler
        self._tolerance = tolerance
        self._replicas = replicas
        self._recommendations: list[tuple[float, int]] = []
        self._changes: list[_Change] = []

    def decide(self, at: float, sample: Sample) -> Decision:
        """One turn at a time (seconds), by the newest sample."""
        before = self._replicas
        lowest, highest = self._autoscaler.min_replicas, self._autoscaler.max_replicas
        if not lowest <= before <= highest:
            wanted = stabilized = after = min(max(before, lowest), highest)
        else:
            self._recommendations = self._recommendations or [(at, before)]
            wanted = self._wanted(sample)
            stabilized = self._stabilized(at, wanted)
            after = self._limited(at, stabilized)
        if after != before:
            self._changes.append(_Change(at, after - before))
        self._replicas = after
        return Decision(at, before, wanted, stabilized, after)

    def _wanted(self, sample: Sample) -> int:
        targets = self._autoscaler.targets
        proposals = [
            self._proposal(sample.totals[name], targets[name]) for name in targets if name in sample.totals
        ]
        return max(proposals, default=self._replicas)

    def _proposal(self, total: int, target: int) -> int:
        """Of one metric, in thousandths; the controller's average is an integer too."""
        ratio = total // self._replicas / target
        if 1 - self._tolerance <= ratio <= 1 + self._tolerance:
            return self._replicas
        return math.ceil(ratio * self._replicas)

    def _stabilized(self, at: float, wanted: int) -> int:
        """Up no further than the lowest wish of its window, down no further than the highest of its own."""

        def recent(rules: Rules) -> list[int]:
            return [wish for when, wish in self._recommendations if when > at - rules.stabilization_seconds]

        floor = min([wanted, *recent(self._autoscaler.up)])
        ceiling = max([wanted, *recent(self._autoscaler.down)])
        self._recommendations.append((at, wanted))
        return min(max(self._replicas, floor), ceiling)

    def _limited(self, at: float, wanted: int) -> int:
        current, limits = self._replicas, self._autoscaler
        if wanted > current:
            allowed = max(current, self._allowed(at, limits.up, _up, max))
            return min(wanted, allowed, limits.max_replicas)
        if wanted < current:
            allowed = min(current, self._allowed(at, limits.down, _down, min))
            return max(wanted, allowed, limits.min_replicas)
        return current

    def _allowed(
        self,
        at: float,
        rules: Rules,
        change: Callable[[Policy, int], int],
        furthest: Callable[[list[int]], int],
    ) -> int:
        """How far the policies let it go; each counts from the replicas at its period's begin."""
        if rules.select == "Disabled":
            return self._replicas
        limits = [
            change(policy, self._replicas_before(at - policy.period_seconds)) for policy in rules.policies
        ]
        nearest = min if furthest is max else max
        return nearest(limits) if rules.select == "Min" else furthest(limits)

    def _replicas_before(self, begin: float) -> int:
        return self._replicas - sum(change.replicas for change in self._changes if change.at > begin)


def replay(autoscaler: Autoscaler, samples: Sequence[Sample], replicas: int) -> list[Decision]:
    """The controller's turns over a whole recording, in which samples hold until the next one."""
    controller, decisions = Replay(autoscaler, replicas), []
    index, at = 0, samples[0].at
    while at <= samples[-1].at:
        while index + 1 < len(samples) and samples[index + 1].at <= at:
            index += 1
        decisions.append(controller.decide(at, samples[index]))
        at += SYNC_SECONDS
    return decisions


def _up(policy: Policy, replicas: int) -> int:
    if policy.kind == "Pods":
        return replicas + policy.value
    return math.ceil(replicas * (1 + policy.value / 100))


def _down(policy: Policy, replicas: int) -> int:
    if policy.kind == "Pods":
        return replicas - policy.value
    return int(replicas * (1 - policy.value / 100))
