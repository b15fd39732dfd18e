"""Figures over figures: lines and points as inline SVG, e.g. a loss over the steps of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from rubicc.spec import strict_fields
from rubicc.text import clean

WIDTH, HEIGHT = 960, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 44
MAX_POINTS = 600
# Classes of page.css, in the order series take them.
COLOURS = ("c", "t", "a", "g")


@dataclass(frozen=True)
class Series:
    """Points of one kind, joined by a line or not; a point's third item is its label."""

    name: str
    points: tuple[tuple[Any, ...], ...]
    style: Literal["line", "points"] = "line"


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        title, x, y: words for it and its axes.
        log_y: the vertical axis is logarithmic; values that are not positive are left out.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    caption: str = ""
    log_y: bool = False


def decode_plot(data: Mapping[str, Any]) -> Plot:
    """A plot from plain values.

    Raises:
        UsageError, TypeError, KeyError, ValueError: wrong form.
    """
    given = strict_fields(Plot, data, "plot")
    rows = [strict_fields(Series, row, "series") for row in given["series"]]
    series = tuple(Series(**row | {"points": tuple(map(tuple, row["points"]))}) for row in rows)
    return Plot(**given | {"series": series})


def svg(plot: Plot) -> str:
    """The picture; "" where there is nothing to draw."""
    drawn = {row.name: _drawable(row, plot.log_y) for row in plot.series}
    every = [point for points in drawn.values() for point in points]
    if not every:
        return ""
    xs, ys = _span([p[0] for p in every]), _span([_up(p[1], plot.log_y) for p in every])

    def place(point: Sequence[Any]) -> tuple[float, float]:
        across = (point[0] - xs[0]) / (xs[1] - xs[0])
        up = (_up(point[1], plot.log_y) - ys[0]) / (ys[1] - ys[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(plot, xs, ys)]
    for index, row in enumerate(plot.series):
        colour = f"var(--{COLOURS[index % len(COLOURS)]})"
        parts.append(_row(row, [(*place(p), *p) for p in drawn[row.name]], colour))
        parts.append(_legend(index, row.name, colour))
    label = escape(clean(f"{plot.title}: {plot.y} over {plot.x}"), quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _drawable(row: Series, log_y: bool) -> list[tuple[Any, ...]]:
    """Finite points; of very many, the mean of neighbours, so that a page stays small."""
    good = [p for p in row.points if p[1] is not None and math.isfinite(p[0]) and math.isfinite(p[1])]
    good = [p for p in good if p[1] > 0] if log_y else good
    step = -(-len(good) // MAX_POINTS)
    if step <= 1 or row.style != "line":
        return good[:MAX_POINTS]
    groups = [good[i : i + step] for i in range(0, len(good), step)]
    return [(g[-1][0], sum(p[1] for p in g) / len(g)) for g in groups]


def _row(row: Series, places: Sequence[tuple[Any, ...]], colour: str) -> str:
    line = ""
    if row.style == "line":
        points = " ".join(f"{p[0]:.1f},{p[1]:.1f}" for p in places)
        line = f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'
    if row.style == "line" and len(places) > 60:
        return line
    dots = []
    for p in places:
        words = escape(clean(f"{p[4] if len(p) > 4 else row.name}: {p[3]:.5g} at {p[2]:.6g}"), quote=True)
        dots.append(
            f'<circle fill="{colour}" cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="3"><title>{words}</title></circle>'
        )
    return line + "".join(dots)


def _legend(index: int, name: str, colour: str) -> str:
    y = TOP + 14 + 16 * index
    words = escape(clean(name), quote=True)
    place = f'x="{WIDTH - RIGHT - 4}" y="{y}" text-anchor="end"'
    return f'<text class="tick" {place} style="fill:{colour}">{words}</text>'


def _axes(plot: Plot, xs: tuple[float, float], ys: tuple[float, float]) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        value = ys[0] + share * (ys[1] - ys[0])
        text = f"{10**value if plot.log_y else value:.3g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
        x = LEFT + share * (WIDTH - LEFT - RIGHT)
        across = f"{xs[0] + share * (xs[1] - xs[0]):.4g}"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{across}</text>'
        )
    words = escape(clean(f"{plot.y} over {plot.x}"), quote=True)
    parts.append(f'<text class="tick" x="{LEFT}" y="{HEIGHT - 6}">{words}</text>')
    return "".join(parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or max(abs(high) * 0.1, 1e-9)
    return (low - room, high + room) if low == high else (low, high + room)


def _up(value: float, log_y: bool) -> float:
    return math.log10(value) if log_y else value
