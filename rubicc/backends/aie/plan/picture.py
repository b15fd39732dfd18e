"""A picture of the array with the layers on it: one SVG, no scripts, no outside resources."""

from __future__ import annotations

from html import escape

from rubicc.backends.aie.plan.model import AiePlan, Stage, Tile

_CELL = 26  # side of a tile in pixels
_LEFT, _TOP = 40, 46
_LEGEND = 15  # height of a line of the legend


def svg(plan: AiePlan) -> str:
    """The array: tiles in the colour of their layer, darker the busier, cascades as arrows, memory tiles
    by how full they are, PLIOs below; a legend of the stages beneath.

    Every tile has a title (shown by browsers on hover) with its layer, slices, bytes and cycles.
    """
    columns, rows = int(plan.facts["columns"]), int(plan.facts["rows"])
    below = int(plan.facts["memory_tile_rows"])
    width = _LEFT + columns * _CELL + 20
    bottom = _TOP + (rows + below + 1) * _CELL + 30
    across = max(1, (width - _LEFT) // 260)
    height = bottom + (-(-len(plan.stages) // across) + 1) * _LEGEND
    speed = plan.throughput
    title = (
        f"{plan.facts['part']} ({plan.device}): {len(plan.tiles)} of {columns * rows} tiles, "
        f"{speed.interval:.0f} cycles per {plan.block} frames, mean busy share {speed.busy:.2f}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(title, quote=True)}">',
        "<style>text{font:10px sans-serif;fill:#222}rect{stroke:#999;stroke-width:.5}</style>",
        f'<text x="{_LEFT}" y="16" style="font-size:13px">{escape(title)}</text>',
    ]
    parts += [f'<text x="4" y="{_y(rows, row) + 17}">{row}</text>' for row in range(rows)]
    parts += [f'<text x="{_x(column) + 6}" y="{_TOP - 6}">{column}</text>' for column in range(columns)]
    taken = {(tile.column, tile.row) for tile in plan.tiles}
    parts += [
        _box(_x(c), _y(rows, r), "#f4f4f4", "free")
        for c in range(columns) for r in range(rows) if (c, r) not in taken
    ]  # fmt: skip
    for stage in plan.stages:
        parts += [_tile(rows, stage, tile, plan) for tile in stage.tiles]
    parts += _arrows(plan, rows)
    parts += _memories(plan, rows, columns, below)
    parts += _plios(plan, rows, below)
    for at, stage in enumerate(plan.stages):
        x, y = _LEFT + at % across * 260, bottom + at // across * _LEGEND
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{_colour(stage.index, 0.8)}"/>')
        parts.append(f'<text x="{x + 14}" y="{y}">{escape(_line(stage))}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _x(column: int) -> int:
    return _LEFT + column * _CELL


def _y(rows: int, row: int) -> int:
    return _TOP + (rows - 1 - row) * _CELL


def _colour(index: int, busy: float) -> str:
    """Neighbouring stages differ: hues step by the golden angle."""
    return f"hsl({index * 137.508 % 360:.0f},55%,{92 - 42 * min(1.0, busy):.0f}%)"


def _box(x: int, y: int, fill: str, title: str, height: int = _CELL - 2) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{height}" fill="{fill}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _line(stage: Stage) -> str:
    split = stage.split
    shown = (
        "x".join(f"{name}{getattr(split, name)}" for name in "nkjt" if getattr(split, name) > 1) or "1 tile"
    )
    name = stage.source or stage.layer
    return f"{stage.index} {name if len(name) < 26 else '...' + name[-23:]} {shown}"


def _tile(rows: int, stage: Stage, tile: Tile, plan: AiePlan) -> str:
    last = tile.memory[-1]
    title = (
        f"{tile.name}: {stage.source or stage.layer} ({stage.kind}, {stage.variant}) | output blocks "
        f"{tile.outputs.first}-{tile.outputs.end - 1}, "
        f"input blocks {tile.inputs.first}-{tile.inputs.end - 1}, "
        f"taps {tile.taps.first}-{tile.taps.end - 1} | {last.offset + last.bytes} of "
        f"{plan.facts['memory_bytes']} bytes | {tile.cycles:.0f} cycles, busy {tile.busy:.2f}"
    )
    x, y = _x(tile.column), _y(rows, tile.row)
    label = f'<text x="{x + 4}" y="{y + 15}">{stage.index}</text>'
    return _box(x, y, _colour(stage.index, tile.busy), title) + label


def _arrows(plan: AiePlan, rows: int) -> list[str]:
    places = {tile.name: tile for tile in plan.tiles}
    made = []
    for tile in plan.tiles:
        if tile.cascade_from:
            before, half = places[tile.cascade_from], _CELL // 2 - 1
            made.append(
                f'<line x1="{_x(before.column) + half}" y1="{_y(rows, before.row) + half}" '
                f'x2="{_x(tile.column) + half}" y2="{_y(rows, tile.row) + half}" stroke="#222" '
                f'stroke-width="1.5" stroke-opacity=".55"><title>cascade</title></line>'
            )
    return made


def _memories(plan: AiePlan, rows: int, columns: int, below: int) -> list[str]:
    used: dict[tuple[int, int], list[str]] = {}
    held: dict[tuple[int, int], int] = {}
    for link in plan.links:
        for buffer in link.buffers:
            place = (buffer.column, buffer.row)
            used.setdefault(place, []).append(f"{buffer.name}: {link.edge}, {buffer.bytes} bytes x")
            held[place] = held.get(place, 0) + buffer.bytes
    made = []
    for column in range(columns):
        for row in range(below):
            size = held.get((column, row), 0)
            share = size / max(1, int(plan.facts["memory_tile_bytes"]))
            fill = f"hsl(210,30%,{96 - 46 * min(1.0, share):.0f}%)" if size else "#fafafa"
            lines = [line.removesuffix(" x") for line in used.get((column, row), ["empty"])]
            made.append(_box(_x(column), _y(rows, -1 - row), fill, "memory tile | " + " | ".join(lines)))
    return [f'<text x="4" y="{_y(rows, -1) + 17}">mem</text>' if below else "", *made]


def _plios(plan: AiePlan, rows: int, below: int) -> list[str]:
    y = _y(rows, -1 - below)
    return [f'<text x="4" y="{y + 12}">PLIO</text>'] + [
        _box(_x(p.column), y, "#cde7c4" if p.direction == "in" else "#f3d9b1", f"{p.name}: {p.edge}", 14)
        for p in plan.plios
    ]
