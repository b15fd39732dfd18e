"""Recount of a plan, from the plan alone: every rule of the device it could break, with the number.

Shares no code with the planner besides the plan's own types; the planner hands out no plan with a finding.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from rubicc.backends.aie.plan.model import AiePlan, End, Slice, Stage, Stream, Tile

_SLOT = 8
_STACK = 1024
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SIDES = {"north": (0, 1), "south": (0, -1), "west": (-1, 0), "east": (1, 0)}
_PLIOS_A_COLUMN = 6  # an interface tile has 8 streams in and 6 out (AM020)


def audit(plan: AiePlan) -> list[str]:
    """Broken rules, empty when the plan is legal."""
    checks = (
        _names, _places, _memory, _dma, _cascades, _coverage, _ports, _buffers, _memory_tiles, _columns,
        _rows, _plios, _time, _speed,
    )  # fmt: skip
    return [fault for check in checks for fault in check(plan)]


def _by_name(plan: AiePlan) -> dict[str, Tile]:
    return {tile.name: tile for tile in plan.tiles}


def _names(plan: AiePlan) -> Iterator[str]:
    names = [t.name for t in plan.tiles] + [p.name for p in plan.plios]
    names += [b.name for link in plan.links for b in link.buffers]
    for name, count in Counter(names).items():
        if count > 1 or not _NAME.fullmatch(name):
            yield f"name {name!r} stands {count} times or is no identifier"


def _places(plan: AiePlan) -> Iterator[str]:
    for place, count in Counter((tile.column, tile.row) for tile in plan.tiles).items():
        if count > 1:
            yield f"{count} kernels on tile {place}"
        if not (0 <= place[0] < plan.facts["columns"] and 0 <= place[1] < plan.facts["rows"]):
            yield f"tile {place} lies outside the array"


def _memory(plan: AiePlan) -> Iterator[str]:
    lent = {s.source.at for link in plan.links for s in link.streams if s.shared}
    for tile in plan.tiles:
        at = 0
        for item in tile.memory:
            if item.offset < at or item.bytes <= 0:
                yield f"{tile.name}: {item.what} overlaps what lies before byte {at}"
            at = item.offset + item.bytes
        if at > plan.facts["memory_bytes"]:
            yield f"{tile.name}: {at} bytes of {plan.facts['memory_bytes']}"
        if plan.facts["program_bytes"] is not None and tile.program > plan.facts["program_bytes"]:
            yield f"{tile.name}: {tile.program} bytes of program memory"
        sizes = {item.what: item.bytes for item in tile.memory}
        if sizes.get("stack", 0) < _STACK:
            yield f"{tile.name}: no stack of {_STACK} bytes"
        for port in tile.ports:
            if port.bytes != port.blocks.count * plan.block * _SLOT:
                yield f"{tile.name}.{port.name}: {port.bytes} bytes for {port.blocks.count} blocks"
            want = [f"{port.name}.{half}" for half in ("ping", "pong")[: port.buffers]]
            mine = not (port.name.startswith("out") and tile.name in lent)
            if mine and any(sizes.get(what, 0) < port.bytes for what in want):
                yield f"{tile.name}.{port.name}: no memory for its buffers"


def _dma(plan: AiePlan) -> Iterator[str]:
    limit = plan.facts["dma_channels"]
    for tile in plan.tiles:
        for side in ("in", "out"):
            used = [p.channel for p in tile.ports if p.name.startswith(side) and p.channel >= 0]
            if len(set(used)) != len(used) or any(channel >= limit for channel in used):
                yield f"{tile.name}: DMA channels {used} {side}, {limit} there are"
        descriptors = sum(port.buffers for port in tile.ports if port.channel >= 0)
        if descriptors > plan.facts["dma_descriptors"]:
            yield f"{tile.name}: {descriptors} buffer descriptors"


def _cascades(plan: AiePlan) -> Iterator[str]:
    tiles = _by_name(plan)
    fed = Counter(tile.cascade_from for tile in plan.tiles if tile.cascade_from)
    for name, count in fed.items():
        if count > 1:
            yield f"{name}: its cascade goes to {count} tiles"
    for stage in plan.stages:
        for tile in stage.tiles:
            last = tile.place == stage.split.k * stage.split.j - 1
            if last != any(port.name == "out0" for port in tile.ports):
                yield f"{tile.name}: place {tile.place} in the chain and its output do not agree"
            if (tile.place > 0) != bool(tile.cascade_from):
                yield f"{tile.name}: place {tile.place} in the chain, cascade from {tile.cascade_from!r}"
            before = tiles.get(tile.cascade_from)
            if tile.cascade_from and (before is None or before.place != tile.place - 1):
                yield f"{tile.name}: the chain before it is broken"
            elif before is not None and not _follows(plan, before, tile):
                yield f"{tile.name}: no cascade leads from {(before.column, before.row)} to it"


def _follows(plan: AiePlan, before: Tile, after: Tile) -> bool:
    across, up = after.column - before.column, after.row - before.row
    if plan.facts["cascade_snake"]:
        forward = 1 if before.row % 2 == 0 else -1
        edge = plan.facts["columns"] - 1 if forward == 1 else 0
        return (across, up) == ((0, 1) if before.column == edge else (forward, 0))
    ways = {"right": (1, 0), "down": (0, -1)}
    return (across, up) in {ways[way] for way in plan.facts["cascade_steps"]}


def _coverage(plan: AiePlan) -> Iterator[str]:
    for stage in plan.stages:
        split = stage.split
        if len(stage.tiles) != split.n * split.k * split.j * split.t:
            yield f"stage {stage.index}: {len(stage.tiles)} tiles for {split}"
        for turn in range(split.t):
            tiles = [tile for tile in stage.tiles if tile.turn == turn]
            parts = sorted({tile.outputs for tile in tiles})
            if not _tiling(parts):
                yield f"stage {stage.index}, turn {turn}: outputs {parts} are no partition"
            for part in parts:
                chain = [tile for tile in tiles if tile.outputs == part]
                yield from _grid(stage, part, chain)


def _grid(stage: Stage, part: Slice, chain: list[Tile]) -> Iterator[str]:
    """Inputs and taps of a chain's tiles cover their rectangle once."""
    cells = Counter(
        (block, tap)
        for tile in chain
        for block in range(tile.inputs.first, tile.inputs.end)
        for tap in range(tile.taps.first, tile.taps.end)
    )
    blocks, taps = {cell[0] for cell in cells}, {cell[1] for cell in cells}
    once = bool(cells) and max(cells.values()) == 1 and len(cells) == len(blocks) * len(taps)
    if not once or taps != set(range(max(taps) + 1)) or max(blocks) - min(blocks) + 1 != len(blocks):
        yield f"stage {stage.index}, outputs {part}: inputs and taps are not covered once"


def _tiling(parts: list[Slice]) -> bool:
    at = 0
    for part in parts:
        if part.first != at or part.count < 1:
            return False
        at = part.end
    return True


def _ports(plan: AiePlan) -> Iterator[str]:
    """Every port is at the end of exactly one stream of its own blocks; inputs get all they use."""
    tiles = _by_name(plan)
    known = {(tile.name, port.name): port for tile in plan.tiles for port in tile.ports}
    plios = {plio.name: plio for plio in plan.plios}
    fed: Counter[tuple[str, str]] = Counter()
    read: Counter[tuple[str, str]] = Counter()
    for link in plan.links:
        ends: list[tuple[End | None, End | None, Slice]] = []
        ends += [(s.source, e, s.blocks) for s in link.streams for e in s.targets]
        ends += [(None, e, r.blocks) for b in link.buffers for r in b.readers for e in r.targets]
        ends += [(w.source, None, w.blocks) for b in link.buffers for w in b.writers]
        for source, target, blocks in ends:
            for end, count in ((source, read), (target, fed)):
                if end is None:
                    continue
                port = known.get((end.at, end.port)) or (plios.get(end.at) if not end.port else None)
                if port is None or port.edge != link.edge or port.blocks != blocks:
                    yield f"{end.at}.{end.port}: {link.edge} {blocks} ends at no such port"
                count[end.at, end.port] += 1
        yield from _neighbourly(plan, tiles, link.streams)
    for (name, side), port in known.items():
        if side.startswith("in") and fed[name, side] != 1:
            yield f"{name}.{side} ({port.edge}): fed {fed[name, side]} times"
        if side.startswith("out") and not read[name, side]:
            yield f"{name}.{side} ({port.edge}): nobody reads it"
    for stage in plan.stages:
        for tile in stage.tiles:
            for edge in stage.inputs:
                got = sorted(p.blocks for p in tile.ports if p.edge == edge and p.name.startswith("in"))
                joined = all(a.end == b.first for a, b in pairwise(got))
                if (
                    not got
                    or not joined
                    or not Slice(got[0].first, got[-1].end - got[0].first).holds(tile.inputs)
                ):
                    yield f"{tile.name}: {edge} blocks {tile.inputs} wanted, {got} come"


def _neighbourly(plan: AiePlan, tiles: dict[str, Tile], streams: tuple[Stream, ...]) -> Iterator[str]:
    for stream in streams:
        if stream.shared:
            a, b = tiles[stream.source.at], tiles[stream.targets[0].at]
            reach = {_SIDES[side] for side in plan.facts["shared_memory"]}
            if len(stream.targets) != 1 or (b.column - a.column, b.row - a.row) not in reach:
                yield f"{a.name} does not reach the memory of {b.name}"


def _buffers(plan: AiePlan) -> Iterator[str]:
    for link in plan.links:
        for buffer in link.buffers:
            size = buffer.blocks.count * plan.block * _SLOT * buffer.units * buffer.depth
            if buffer.bytes != size or buffer.depth != 2:
                yield f"{buffer.name}: {buffer.bytes} bytes, {size} are used"
            for kind in (buffer.writers, buffer.readers):
                turns = 1 + max(end.turn for end in kind)
                if buffer.units % turns or {end.turn for end in kind} != set(range(turns)):
                    yield f"{buffer.name}: {turns} turns in {buffer.units} units"
            turns = 1 + max(writer.turn for writer in buffer.writers)
            for turn in range(turns):
                parts = sorted(w.blocks for w in buffer.writers if w.turn == turn)
                joined = all(a.end == b.first for a, b in pairwise(parts))
                whole = Slice(parts[0].first, parts[-1].end - parts[0].first) if parts else Slice(0, 0)
                if not joined or whole != buffer.blocks:
                    yield f"{buffer.name}: turn {turn} writes {parts} of {buffer.blocks}"
            for reader in buffer.readers:
                if not buffer.blocks.holds(reader.blocks) or reader.blocks.count < 1:
                    yield f"{buffer.name}: reads {reader.blocks} of {buffer.blocks}"


def _memory_tiles(plan: AiePlan) -> Iterator[str]:
    held = defaultdict(list)
    for link in plan.links:
        for buffer in link.buffers:
            held[buffer.column, buffer.row].append(buffer)
    facts = plan.facts
    for place, buffers in held.items():
        if not (0 <= place[0] < facts["columns"] and 0 <= place[1] < facts["memory_tile_rows"]):
            yield f"memory tile {place} does not exist"
        at = 0
        for buffer in sorted(buffers, key=lambda b: b.offset):
            if buffer.offset < at:
                yield f"memory tile {place}: {buffer.name} overlaps"
            at = buffer.offset + buffer.bytes
        if at > facts["memory_tile_bytes"]:
            yield f"memory tile {place}: {at} bytes of {facts['memory_tile_bytes']}"
        pools = [0, 0]
        for side in ("writers", "readers"):
            channels = [(end.channel, b.depth) for b in buffers for end in getattr(b, side)]
            numbers = [channel for channel, _ in channels]
            if len(set(numbers)) < len(numbers) or max(numbers) >= facts["memory_tile_channels"]:
                yield f"memory tile {place}: {side} on channels {sorted(numbers)}"
            for channel, depth in channels:
                pools[channel % 2] += depth
        if max(pools) > facts["memory_tile_descriptors"] // 2:
            yield f"memory tile {place}: {max(pools)} buffer descriptors in one pool"


def _columns(plan: AiePlan) -> Iterator[str]:
    """Streams between the memory tiles of a column and the cores."""
    down: Counter[int] = Counter()
    up: Counter[int] = Counter()
    for link in plan.links:
        for buffer in link.buffers:
            down[buffer.column] += sum(1 for w in buffer.writers if w.source.port)
            up[buffer.column] += sum(1 for r in buffer.readers if any(e.port for e in r.targets))
    for name, used, limit in (("down", down, "column_down"), ("up", up, "column_up")):
        for column, count in used.items():
            if count > plan.facts[limit]:
                yield f"column {column}: {count} streams {name}, {plan.facts[limit]} there are"


def _rows(plan: AiePlan) -> Iterator[str]:
    """Streams over every line between two columns, each broadcast counted once."""
    columns: Counter[str] = Counter({tile.name: tile.column for tile in plan.tiles})
    columns.update({plio.name: plio.column for plio in plan.plios})
    spans: dict[tuple[str, int, str], list[int]] = {}

    def note(key: tuple[str, int, str], start: int, ends: list[int]) -> None:
        spans.setdefault(key, [start]).extend(ends)

    for link in plan.links:
        for stream in link.streams:
            if not stream.shared:
                ends = [columns[end.at] for end in stream.targets]
                note((stream.source.at, 0, stream.source.port), columns[stream.source.at], ends)
        for buffer in link.buffers:
            for writer in buffer.writers:
                source: End = writer.source
                note((source.at, 0, source.port), columns[source.at], [buffer.column])
            for at, reader in enumerate(buffer.readers):
                note((buffer.name, at, ""), buffer.column, [columns[end.at] for end in reader.targets])
    right: Counter[int] = Counter()
    left: Counter[int] = Counter()
    for start, *ends in spans.values():
        right.update(range(start, max(start, *ends)))
        left.update(range(min(start, *ends), start))
    limit = plan.facts["row_streams"] * plan.facts["rows"]
    for name, used in (("right", right), ("left", left)):
        for column, count in used.items():
            if count > limit:
                yield f"{count} streams {name} between columns {column} and {column + 1}, {limit} there are"


def _plios(plan: AiePlan) -> Iterator[str]:
    first, count = plan.facts["first_plio_column"], plan.facts["plio_columns"]
    for column, used in Counter(plio.column for plio in plan.plios).items():
        last = first + count if count else plan.facts["columns"]
        if not first <= column < last or used > _PLIOS_A_COLUMN:
            yield f"{used} PLIOs at interface column {column}"
    for segment in plan.segments:
        for direction, edges in (("in", segment.inputs), ("out", segment.outputs)):
            for edge in edges:
                if not any(p.edge == edge and p.direction == direction for p in plan.plios):
                    yield f"segment {segment.index}: no PLIO {direction} for {edge}"


def _time(plan: AiePlan) -> Iterator[str]:
    """Frames: periods, gaps, lags and delays that meet."""
    if plan.period % plan.block or plan.period != plan.frames + plan.gap or plan.gap < 0:
        yield f"period {plan.period} of {plan.frames} frames and a gap of {plan.gap}, units of {plan.block}"
    if max(plan.lengths.values()) > plan.period:
        yield f"an edge has {max(plan.lengths.values())} frames in a period of {plan.period}"
    lag = {stage.output: (stage.segment, stage.lag) for stage in plan.stages}
    for stage in plan.stages:
        inside = [lag.get(edge, (-1, 0)) for edge in stage.inputs]
        arrive = {
            (own if segment == stage.segment else 0) + delay
            for (segment, own), delay in zip(inside, stage.delays, strict=True)
        }
        if len(arrive) > 1 or stage.lag < max(arrive) or min(stage.delays) < 0:
            yield f"stage {stage.index}: inputs come {sorted(arrive)} frames late, output {stage.lag}"
        kept = max(stage.delays) if stage.kind == "add" else 0
        for tile in stage.tiles:
            room = sum(item.bytes for item in tile.memory if item.what.startswith("history"))
            if room < kept * tile.inputs.count * _SLOT:
                yield f"{tile.name}: {room} bytes of history for {kept} frames"


def _speed(plan: AiePlan) -> Iterator[str]:
    """No tile and no stream needs longer than the interval; the mean busy share is what the tiles say."""
    interval = plan.throughput.interval * (1 + 1e-9)
    moved = plan.facts["stream_bits"] / 8
    for stage in plan.stages:
        for tile in stage.tiles:
            filled = max((p.bytes for p in tile.ports), default=0) / moved
            if max(tile.cycles, filled) / stage.split.t > interval:
                yield f"{tile.name}: {max(tile.cycles, filled):.0f} cycles in an interval of {interval:.0f}"
            if abs(tile.busy - tile.cycles / stage.split.t / plan.throughput.interval) > 1e-6:
                yield f"{tile.name}: busy share {tile.busy:.3f} is not its cycles over the interval"
    mean = sum(tile.busy for tile in plan.tiles) / len(plan.tiles)
    if abs(mean - plan.throughput.busy) > 1e-6:
        yield f"mean busy share {plan.throughput.busy:.3f}, the tiles say {mean:.3f}"
