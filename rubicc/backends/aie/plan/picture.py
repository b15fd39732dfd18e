"""The array with the layers on it, for the report and for ``array.svg``."""

from __future__ import annotations

from rubicc.backends.aie.plan.model import AiePlan, Stage, Tile
from rubicc.evidence.floor import Cell, Floor, standalone

_CAPTION = (
    "A square of the numbered rows is a core with the number and the colour of its layer, filled from below "
    "up to the share of the time in which it computes; lines beside the numbers are cascades. Memory tiles "
    "(mem), with their number of buffers, are filled up to the bytes in use; PLIO: number of ports to memory "
    "in that column. Point at a square for details. Cycles and shares are estimates; nothing was measured on "
    "a device."
)
_HEADER = ("layer", "kernel", "bits a x w", "tiles", "cycles per work unit", "busy", "fullest tile, bytes")


def svg(plan: AiePlan) -> str:
    """The picture as a file of its own: no scripts, no outside resources."""
    return standalone(floor(plan))


def floor(plan: AiePlan) -> Floor:
    """Cores in the colours of their layers, filled by how busy they are; memory tiles by how full they are;
    cascades; ports. The table has one row for each layer, in the order of the plan.
    """
    rows, below = int(plan.facts["rows"]), int(plan.facts["memory_tile_rows"])
    columns = int(plan.facts["columns"])
    places = {tile.name: tile for tile in plan.tiles}
    return Floor(
        title=_title(plan),
        caption=_CAPTION,
        columns=columns,
        rows=(*(str(row) for row in reversed(range(rows))), *["mem"] * below, "PLIO"),
        cells=(
            *_cores(plan, rows, columns),
            *_memories(plan, rows, columns, below),
            *_ports(plan, rows + below),
        ),
        joins=tuple(
            (places[t.cascade_from].column, rows - 1 - places[t.cascade_from].row, t.column, rows - 1 - t.row)
            for t in plan.tiles
            if t.cascade_from
        ),
        header=_HEADER,
        groups=tuple(_row(stage, plan) for stage in plan.stages),
    )


def _title(plan: AiePlan) -> str:
    speed, cores = plan.throughput, int(plan.facts["columns"]) * int(plan.facts["rows"])
    return (
        f"The array of {plan.facts['part']} ({plan.device}): {len(plan.tiles)} of {cores} tiles, "
        f"{speed.interval:,.0f} cycles per {plan.block} frames, busy {speed.busy:.0%} on average"
    )


def _row(stage: Stage, plan: AiePlan) -> tuple[str, ...]:
    split = stage.split
    parts = " ".join(f"{name}{getattr(split, name)}" for name in "nkjt" if getattr(split, name) > 1)
    low, high = stage.band
    activations, weights = stage.widths
    busy = sum(tile.busy for tile in stage.tiles) / len(stage.tiles)
    most = max(_bytes(tile) for tile in stage.tiles)
    return (
        stage.source or stage.layer,
        stage.variant,
        f"{activations} x {weights}" if weights else str(activations),
        f"{split.tiles}" + (f" ({parts})" if parts else ""),
        f"{stage.cycles:,.0f} ({low:,.0f} to {high:,.0f})",
        f"{busy:.0%}",
        f"{most:,} of {int(plan.facts['memory_bytes']):,}",
    )


def _bytes(tile: Tile) -> int:
    return max((item.offset + item.bytes for item in tile.memory), default=0)


def _cores(plan: AiePlan, rows: int, columns: int) -> list[Cell]:
    taken = {(tile.column, tile.row) for tile in plan.tiles}
    cells = [
        Cell(column, rows - 1 - row, "core", title="free")
        for column in range(columns)
        for row in range(rows)
        if (column, row) not in taken
    ]
    for number, stage in enumerate(plan.stages):
        for tile in stage.tiles:
            title = _tile(stage, tile, plan)
            busy = min(1.0, max(0.0, tile.busy))
            cells.append(Cell(tile.column, rows - 1 - tile.row, "core", number, busy, str(number), title))
    return cells


def _tile(stage: Stage, tile: Tile, plan: AiePlan) -> str:
    return (
        f"{tile.name}: {stage.source or stage.layer} ({stage.kind}, {stage.variant}) | output blocks "
        f"{tile.outputs.first}-{tile.outputs.end - 1}, "
        f"input blocks {tile.inputs.first}-{tile.inputs.end - 1}, "
        f"taps {tile.taps.first}-{tile.taps.end - 1} | {_bytes(tile)} of "
        f"{plan.facts['memory_bytes']} bytes | {tile.cycles:.0f} cycles, busy {tile.busy:.0%}"
    )


def _memories(plan: AiePlan, rows: int, columns: int, below: int) -> list[Cell]:
    """Memory tile row 0 is the one next to the cores."""
    used: dict[tuple[int, int], list[str]] = {}
    held: dict[tuple[int, int], int] = {}
    for link in plan.links:
        for buffer in link.buffers:
            place = (buffer.column, buffer.row)
            used.setdefault(place, []).append(f"{buffer.name}: {link.edge}, {buffer.bytes} bytes")
            held[place] = held.get(place, 0) + buffer.bytes
    size = max(1, int(plan.facts.get("memory_tile_bytes") or 1))
    return [
        Cell(
            column,
            rows + row,
            "memory",
            fill=min(1.0, held.get((column, row), 0) / size),
            label=str(len(used[column, row])) if (column, row) in used else "",
            title=" | ".join(["memory tile", *used.get((column, row), ["empty"])]),
        )
        for column in range(columns)
        for row in range(below)
    ]


def _ports(plan: AiePlan, row: int) -> list[Cell]:
    found: dict[int, list[str]] = {}
    for plio in plan.plios:
        found.setdefault(plio.column, []).append(f"{plio.name} ({plio.direction}): {plio.edge}")
    return [
        Cell(column, row, "port", fill=1.0, label=str(len(names)), title=" | ".join(names))
        for column, names in sorted(found.items())
    ]
