"""Horizontal bars as SVG text that needs nothing else, one panel beside the other."""

import dataclasses
from collections.abc import Iterable, Sequence
from html import escape

_PANEL, _LABELS, _BAR, _GAP, _TOP = 210, 190, 14, 5, 56
_FIRST, _REST = "#d55e00", "#0072b2"
"""Of the first kind of bars and of the others: from Okabe and Ito's palette."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """One row: a value for each panel, None where there is none."""

    label: str
    values: Sequence[float | None]
    marked: bool = False
    """Drawn in the other colour."""


def svg(title: str, panels: Sequence[str], bars: Sequence[Bar]) -> str:
    """The rows under each other, the panels side by side, each to a scale of its own that begins at 0."""
    width = _LABELS + _PANEL * len(panels) + 10
    height = _TOP + (_BAR + _GAP) * len(bars) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(10, 20, title, ' font-size="13" font-weight="bold"'),
        *(_text(_LABELS + _PANEL * index, _TOP - 12, panel) for index, panel in enumerate(panels)),
    ]
    for row, bar in enumerate(bars):
        y = _TOP + (_BAR + _GAP) * row
        parts.append(_text(_LABELS - 8, y + _BAR - 3, bar.label, ' text-anchor="end"'))
        parts += _row(bar, y, [_most(bars, index) for index in range(len(panels))])
    return "\n".join([*parts, "</svg>"])


def _row(bar: Bar, y: int, most: Sequence[float]) -> Iterable[str]:
    for index, value in enumerate(bar.values):
        if value is None:
            continue
        x = _LABELS + _PANEL * index
        length = (_PANEL - 60) * value / most[index]
        colour = _FIRST if bar.marked else _REST
        yield f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>'
        yield _text(x + length + 4, y + _BAR - 3, f"{value:.0f}")


def _most(bars: Sequence[Bar], index: int) -> float:
    return max((bar.values[index] or 0.0 for bar in bars), default=0.0) or 1.0


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'
