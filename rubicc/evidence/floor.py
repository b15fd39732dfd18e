"""A device's array of cores with the layers on it, drawn to scale: for the report and as a file of its own.

Layers have colours of their own, which are light enough for dark text in the dark and on paper; everything
else takes the page's colours.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from rubicc.spec import strict_fields
from rubicc.text import clean

KINDS = ("core", "memory", "port")
WIDTH, LEFT, TOP = 960, 40, 18
LARGEST_CELL = 40.0
LEGEND_WIDTH, LEGEND_LINE = 312, 15
LEGEND_LETTERS = 44
# What the page gives the picture, for the file that stands alone.
_ALONE = (
    "svg{--ink:#1c2126;--soft:#5b6570;--line:#c3cad1;--panel:#f5f7f9;background:#fff;font-family:sans-serif}"
    ".tick{font-size:11px;fill:var(--soft)}.cell{fill:var(--panel);stroke:var(--line)}"
    ".cellname{fill:#1c2126;text-anchor:middle}.join{stroke:#1c2126;stroke-opacity:.6}"
    ".held{fill:#8fa3b8}.key{font-size:11px;fill:var(--ink)}"
)


@dataclass(frozen=True)
class Cell:
    """One square.

    Attributes:
        column, row: place; row 0 is the uppermost.
        kind: ``core``, ``memory`` or ``port``.
        group: index into the floor's groups, whose colour it has; -1 without one.
        fill: share (0 to 1) to which it is filled from below.
        label: at most four letters shown inside.
        title: shown when pointed at.
    """

    column: int
    row: int
    kind: str
    group: int = -1
    fill: float = 0.0
    label: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        whole = all(type(value) is int for value in (self.column, self.row, self.group))
        if not whole or min(self.column, self.row, self.group + 1) < 0:
            raise ValueError("a cell's place and group are whole numbers")
        if self.kind not in KINDS or not 0.0 <= float(self.fill) <= 1.0:
            raise ValueError(f"a cell of kind {self.kind!r} filled to {self.fill!r}")


@dataclass(frozen=True)
class Floor:
    """The array.

    Attributes:
        title, caption: of the section; the caption says what filling and lines mean.
        columns: squares in a row.
        rows: names of the rows, from the top.
        cells: what is in the squares; those named by no cell are not drawn.
        joins: (column, row, column, row) of squares joined by a line.
        header: names of the columns of ``groups``.
        groups: a table row for each layer; the first cell is its name.
    """

    title: str
    caption: str
    columns: int
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]
    joins: tuple[tuple[int, int, int, int], ...] = ()
    header: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if type(self.columns) is not int or self.columns < 1:
            raise ValueError(f"an array of {self.columns!r} columns")
        places = [(c.column, c.row) for c in self.cells]
        places += [place for join in self.joins for place in (join[:2], join[2:])]
        if any(not (0 <= x < self.columns and 0 <= y < len(self.rows)) for x, y in places):
            raise ValueError("something lies outside the array")
        if any(len(row) != len(self.header) for row in self.groups):
            raise ValueError("rows and header of the groups differ in length")


def decode_floor(data: Mapping[str, Any]) -> Floor:
    """A floor from plain values.

    Raises:
        UsageError, TypeError, KeyError, ValueError: wrong form.
    """
    given = strict_fields(Floor, data, "floor")
    made = {
        "rows": tuple(map(str, given["rows"])),
        "cells": tuple(Cell(**cell) for cell in given["cells"]),
        "joins": tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in given["joins"]),
        "header": tuple(map(str, given["header"])),
        "groups": tuple(tuple(map(str, row)) for row in given["groups"]),
    }
    return Floor(**given | made)


def colour(group: int, light: int) -> str:
    """A layer's colour at a lightness in percent: neighbours differ, hues step by the golden angle."""
    return f"hsl({group * 137.508 % 360:.0f},60%,{light}%)"


def inline(floor: Floor) -> str:
    """The picture for a page that has the classes ``cell``, ``cellname``, ``held``, ``join`` and ``tick``."""
    height = TOP + len(floor.rows) * _side(floor) + 4
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{_text(floor.title)}">'
        f"{_squares(floor)}</svg>"
    )


def standalone(floor: Floor) -> str:
    """The same as a file of its own, with title, caption and the layers' names beneath."""
    across = WIDTH // LEGEND_WIDTH
    array = TOP + len(floor.rows) * _side(floor) + 4
    words = textwrap.wrap(clean(floor.caption), 150)
    head = 26 + len(words) * LEGEND_LINE
    lines = -(-len(floor.groups) // across)
    height = head + array + (lines + 1) * LEGEND_LINE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'role="img" aria-label="{_text(floor.title)}"><style>{_ALONE}</style>',
        f'<text class="key" x="{LEFT}" y="16" style="font-size:14px">{_text(floor.title)}</text>',
        *(
            f'<text class="tick" x="{LEFT}" y="{32 + i * LEGEND_LINE}">{_text(line)}</text>'
            for i, line in enumerate(words)
        ),
        f'<g transform="translate(0 {head})">{_squares(floor)}</g>',
    ]
    for number, row in enumerate(floor.groups):
        column, line = divmod(number, max(1, lines))
        x, y = LEFT + column * LEGEND_WIDTH, head + array + (line + 1) * LEGEND_LINE
        name = row[0] if len(row[0]) <= LEGEND_LETTERS else f"...{row[0][3 - LEGEND_LETTERS :]}"
        parts.append(
            f'<rect x="{x}" y="{y - 9:.1f}" width="10" height="10" fill="{colour(number, 60)}"/>'
            f'<text class="key" x="{x + 14}" y="{y:.1f}">{number} {_text(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _side(floor: Floor) -> float:
    return min(LARGEST_CELL, (WIDTH - LEFT) / floor.columns)


def _squares(floor: Floor) -> str:
    side = _side(floor)
    every = 1 if side >= 16 else 2
    parts = [
        f'<text class="tick" x="{LEFT + (x + 0.5) * side:.1f}" y="{TOP - 5}" text-anchor="middle">{x}</text>'
        for x in range(0, floor.columns, every)
    ]
    parts += [
        f'<text class="tick" x="{LEFT - 6}" y="{TOP + (y + 0.5) * side + 4:.1f}" text-anchor="end">'
        f"{_text(name)}</text>"
        for y, name in enumerate(floor.rows)
    ]
    parts += [_cell(cell, side) for cell in floor.cells]
    for left, top, right, bottom in floor.joins:
        x1, x2 = (f"{LEFT + (x + 0.86) * side:.1f}" for x in (left, right))
        y1, y2 = (f"{TOP + (y + 0.86) * side:.1f}" for y in (top, bottom))
        parts.append(f'<line class="join" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    return "".join(parts)


def _cell(cell: Cell, side: float) -> str:
    """The square, as far as it is filled, its label."""
    x, y, size = LEFT + cell.column * side, TOP + cell.row * side, side - 1.5
    filled = size * cell.fill
    layer = cell.group >= 0
    paper = f' style="fill:{colour(cell.group, 88)}"' if layer else ""
    shade = f'fill="{colour(cell.group, 66)}"' if layer else 'class="held"'
    made = f'<g><title>{_text(cell.title)}</title><rect class="cell" x="{x:.1f}" y="{y:.1f}" '
    made += f'width="{size:.1f}" height="{size:.1f}"{paper}/>'
    if filled > 0:
        made += f'<rect {shade} x="{x:.1f}" y="{y + size - filled:.1f}" width="{size:.1f}" '
        made += f'height="{filled:.1f}"/>'
    if cell.label:
        letters = min(12.0, side * 0.46 if len(cell.label) < 3 else side * 0.38)
        made += f'<text class="cellname" style="font-size:{letters:.1f}px" x="{x + size / 2:.1f}" '
        made += f'y="{y + size / 2 + letters * 0.35:.1f}">{_text(cell.label)}</text>'
    return made + "</g>"


def _text(value: object) -> str:
    return escape(clean(value), quote=True)
