"""A HorizontalPodAutoscaler of autoscaling/v2 as its controller uses it: limits, targets, rules."""

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

_UNITS: Final = {"m": Decimal("0.001"), "": Decimal(1), "k": Decimal(1000)}
_STABILIZATION_SECONDS: Final = {"scaleUp": 0, "scaleDown": 300}
"""What Kubernetes takes where the object says nothing."""


class AutoscalerError(Exception):
    """The object is no autoscaler that can be replayed; the message says what it lacks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """By how much replicas may change within a period: so many pods, or so many percent."""

    kind: str
    """Pods or Percent."""
    value: int
    period_seconds: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """How fast it goes in one direction."""

    policies: tuple[Policy, ...]
    stabilization_seconds: int
    select: str
    """Which policy counts: Max (the largest change), Min or Disabled."""


@dataclasses.dataclass(frozen=True, slots=True)
class Autoscaler:
    """What an HPA object asks for."""

    min_replicas: int
    max_replicas: int
    targets: Mapping[str, int]
    """Average per pod by metric, in thousandths, as the controller counts."""
    up: Rules
    down: Rules


def read_autoscaler(hpa: Mapping[str, Any]) -> Autoscaler:
    """Of an object of kind HorizontalPodAutoscaler. Raises AutoscalerError."""
    if hpa.get("kind") != "HorizontalPodAutoscaler":
        raise AutoscalerError(f"an object of kind HorizontalPodAutoscaler is needed, not {hpa.get('kind')}")
    spec = hpa["spec"]
    try:
        return Autoscaler(
            min_replicas=spec.get("minReplicas", 1),
            max_replicas=spec["maxReplicas"],
            targets=dict(map(_target, spec["metrics"])),
            up=_rules(spec["behavior"], "scaleUp"),
            down=_rules(spec["behavior"], "scaleDown"),
        )
    except KeyError as error:
        raise AutoscalerError(
            f"the autoscaler has no {error}; needed are Pods metrics by averageValue, behavior.*.policies"
        ) from error


def milli(quantity: str | float) -> int:
    """Thousandths of a Kubernetes quantity: "800m" is 800, "4" is 4000. Raises AutoscalerError."""
    text = str(quantity)
    unit = text[-1] if text[-1:] in _UNITS else ""
    try:
        return round(Decimal(text.removesuffix(unit)) * _UNITS[unit] * 1000)
    except InvalidOperation as error:
        raise AutoscalerError(f"{quantity!r} is no quantity; write 4, 0.8 or 800m") from error


def _target(metric: Mapping[str, Any]) -> tuple[str, int]:
    pods = metric["pods"]
    return pods["metric"]["name"], milli(pods["target"]["averageValue"])


def _rules(behavior: Mapping[str, Any], direction: str) -> Rules:
    rules = behavior[direction]
    return Rules(
        policies=_policies(rules["policies"]),
        stabilization_seconds=rules.get("stabilizationWindowSeconds", _STABILIZATION_SECONDS[direction]),
        select=rules.get("selectPolicy", "Max"),
    )


def _policies(policies: Sequence[Mapping[str, Any]]) -> tuple[Policy, ...]:
    return tuple(Policy(one["type"], one["value"], one["periodSeconds"]) for one in policies)
