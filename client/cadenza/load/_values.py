"""Values as people type them: durations, rates, objectives. Parsers raise ValueError with what is allowed."""

import re
from typing import Final

from cadenza.load._objectives import Objectives

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """ "500ms", "60s", "2m", "1.5" (seconds)."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|h|)", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration: give a number with us, ms, s, m or h, such as 500ms")
    return float(match[1]) * _UNITS[match[2]]


def rate_range(text: str) -> tuple[float, float]:
    """ "4" or "1:20", requests a second."""
    low, _, high = text.partition(":")
    try:
        found = float(low), float(high or low)
    except ValueError:
        found = 0.0, 0.0
    if not (min(found) >= 0 and 0 < max(found) < float("inf")):
        raise ValueError(f"{text!r} is no rate: give requests a second above 0, or a range such as 1:20")
    return found


def rates(text: str) -> tuple[float, ...]:
    """ "1,2,4", requests a second."""
    ranges = [rate_range(part) for part in text.split(",")]
    if any(low != high for low, high in ranges):
        raise ValueError(f"{text!r} are no rates: give requests a second, such as 1,2,4")
    return tuple(low for low, _ in ranges)


def objectives(text: str) -> Objectives:
    """ "ttft=500ms,tpot=50ms", and latency."""
    bounds: dict[str, float] = {}
    for part in text.split(","):
        name, separator, bound = part.strip().partition("=")
        if not separator or name not in ("ttft", "tpot", "latency") or name in bounds:
            raise ValueError(f"{text!r} are no objectives: give some of ttft=500ms,tpot=50ms,latency=10s")
        bounds[name] = seconds(bound)
    return Objectives(**bounds)
