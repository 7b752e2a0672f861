"""Plots as plain SVG text; pure."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from benchmarks.markdown import number
from benchmarks.model import OURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH = 860
_LABEL = 330
_BAR = 18
_GAP = 6
_COLOURS = ("#0b62a4", "#c8553d", "#3f7d20", "#8a5a00", "#6b4e9b", "#008080", "#7a7a7a", "#b8336a")


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _page(height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="sans-serif" font-size="12" fill="#222">'
    )
    return (
        "\n".join([head, f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#fff"/>', *parts, "</svg>"])
        + "\n"
    )


def _decades(low: float, high: float) -> tuple[int, int]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return first, max(last, first + 1)


def bars(title: str, panels: Sequence[tuple[str, str, Mapping[str, float]]]) -> str:
    """Bars on a logarithmic scale of each panel's own.

    Args:
        title: of the whole.
        panels: each a heading, a unit, and a number above 0 by name.
    """
    parts = [_text(12, 24, title, more=' font-size="16" font-weight="bold"')]
    y = 44.0
    for heading, unit, values in panels:
        shown = {name: value for name, value in values.items() if value > 0}
        if not shown:
            continue
        first, last = _decades(min(shown.values()) * 0.6, max(shown.values()))
        scale = (_WIDTH - _LABEL - 90) / (last - first)
        parts.append(_text(12, y + 14, f"{heading} ({unit}, logarithmic)", more=' font-weight="bold"'))
        y += 22
        bottom = y + len(shown) * (_BAR + _GAP)
        for decade in range(first, last + 1):
            x = _LABEL + (decade - first) * scale
            parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="#ddd"/>')
        for name, value in shown.items():
            long = (math.log10(value) - first) * scale
            colour = _COLOURS[0] if name.startswith(OURS) else "#b0b0b0"
            parts.append(_text(_LABEL - 8, y + 13, name, "end"))
            parts.append(
                f'<rect x="{_LABEL}" y="{y:.1f}" width="{long:.1f}" height="{_BAR}" fill="{colour}"/>'
            )
            parts.append(_text(_LABEL + long + 5, y + 13, number(value)))
            y += _BAR + _GAP
        y += 16
    return _page(y, parts)


def lines(title: str, across: str, up: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines on two logarithmic scales; each series is points of numbers above 0."""
    points = [point for line in series.values() for point in line]
    if not points:
        return _page(60, [_text(12, 24, f"{title}: nothing was measured")])
    left, top, wide, high = 70.0, 44.0, 520.0, 380.0
    x0, x1 = _decades(min(x for x, _ in points), max(x for x, _ in points))
    y0, y1 = _decades(min(y for _, y in points), max(y for _, y in points))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = left + (math.log10(point[0]) - x0) / (x1 - x0) * wide
        return x, top + high - (math.log10(point[1]) - y0) / (y1 - y0) * high

    parts = [_text(12, 24, title, more=' font-size="16" font-weight="bold"')]
    for decade in range(x0, x1 + 1):
        x, _ = place((10.0**decade, 10.0**y0))
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + high}" stroke="#ddd"/>')
        parts.append(_text(x, top + high + 16, f"{10.0**decade:,g}", "middle"))
    for decade in range(y0, y1 + 1):
        _, y = place((10.0**x0, 10.0**decade))
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + wide}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, f"{10.0**decade:,g}", "end"))
    parts.append(_text(left + wide / 2, top + high + 34, across, "middle"))
    parts.append(_text(12, top - 6, up))
    for index, (name, line) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        dashes = "" if index < len(_COLOURS) else ' stroke-dasharray="5 3"'
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in map(place, line)]
        parts.append(
            _text(left + wide + 16, top + 14 + 18 * index, f"● {name}", more=f' style="fill:{colour}"')
        )
    return _page(max(top + high + 50, top + 30 + 18 * len(series)), parts)
