"""Line plots as SVG text that needs nothing else: no script, no style sheet, no font of its own."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

WIDTH, HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 52, 46
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A series of points; `marked` draws each as a dot."""

    label: str
    points: Sequence[tuple[float, float]]
    marked: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """A dashed line across the plot."""

    label: str
    value: float
    vertical: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Plot:
    """What is drawn. A logarithmic axis shows positive values only."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    limits: Sequence[Limit] = ()
    log_x: bool = False
    log_y: bool = False
    y_max: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to pixels: `low` to `start`, `high` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (self._scaled(number) for number in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def shows(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def svg(plot: Plot) -> str:
    """The plot as one <svg> element."""
    x = _axis(
        [point[0] for line in plot.lines for point in line.points],
        [limit.value for limit in plot.limits if limit.vertical],
        (_LEFT, WIDTH - _RIGHT),
        plot.log_x,
    )
    y = _axis(
        [point[1] for line in plot.lines for point in line.points],
        [plot.y_max] if plot.y_max else [limit.value for limit in plot.limits if not limit.vertical],
        (HEIGHT - _BOTTOM, _TOP),
        plot.log_y,
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 16, plot.title, size=13, weight="bold"),
        *_legend(plot.lines),
        *_grid(x, y, plot),
        *(_limit(limit, x, y) for limit in plot.limits),
        *(_line(line, COLOURS[index % len(COLOURS)], x, y) for index, line in enumerate(plot.lines)),
        "</svg>",
    ]
    return "\n".join(parts)


def _axis(values: Sequence[float], more: Sequence[float], pixels: tuple[float, float], log: bool) -> Axis:
    shown = [value for value in (*values, *more) if not log or value > 0]
    low, high = (min(shown), max(shown)) if shown else (0.1, 1.0)
    if log:
        low, high = (low, high) if high > 1.2 * low else (low / 2, high * 2)
        return Axis(low / 1.05, high * 1.05, *pixels, log=True)
    low = min(low, 0.0)
    return Axis(low, high * 1.05 if high > low else low + 1.0, *pixels, log=False)


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 6
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(decades) > 4 else (1, 2, 5)
    return [
        factor * 10.0**decade
        for decade in decades
        for factor in factors
        if low <= factor * 10.0**decade <= high
    ]


def _grid(x: Axis, y: Axis, plot: Plot) -> Iterable[str]:
    for value in x.ticks():
        yield _stroke(x.at(value), y.start, x.at(value), y.end, "#e4e4e4")
        yield _text(x.at(value), y.start + 15, _number(value), anchor="middle")
    for value in y.ticks():
        yield _stroke(x.start, y.at(value), x.end, y.at(value), "#e4e4e4")
        yield _text(x.start - 6, y.at(value) + 4, _number(value), anchor="end")
    yield _stroke(x.start, y.start, x.end, y.start, "#888")
    yield _stroke(x.start, y.start, x.start, y.end, "#888")
    yield _text((x.start + x.end) / 2, HEIGHT - 10, plot.x_label, anchor="middle")
    middle = (y.start + y.end) / 2
    yield (
        f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
        f"{escape(plot.y_label)}</text>"
    )


def _legend(lines: Sequence[Line]) -> Iterable[str]:
    left = float(_LEFT)
    for index, line in enumerate(lines):
        yield f'<rect x="{left:.0f}" y="27" width="14" height="4" fill="{COLOURS[index % len(COLOURS)]}"/>'
        yield _text(left + 18, 33, line.label)
        left += 34 + 6.2 * len(line.label)


def _limit(limit: Limit, x: Axis, y: Axis) -> str:
    dash = ' stroke-dasharray="5 4"'
    if limit.vertical:
        at = x.at(limit.value)
        return _stroke(at, y.start, at, y.end, "#b00020", dash) + _text(
            at - 4, y.end + 12, limit.label, anchor="end", colour="#b00020"
        )
    if not y.shows(limit.value):
        return ""
    at = y.at(limit.value)
    return _stroke(x.start, at, x.end, at, "#b00020", dash) + _text(
        x.start + 5, at - 4, limit.label, colour="#b00020"
    )


def _line(line: Line, colour: str, x: Axis, y: Axis) -> str:
    shown = [(x.at(a), y.at(b)) for a, b in line.points if x.shows(a) and y.shows(b)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
    drawn = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    if line.marked:
        drawn += "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in shown)
    return drawn


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    weight: str = "normal",
    colour: str = "#333",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
