"""Edges between stages: straight streams where slices agree, buffers in memory tiles elsewhere."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

from rubicc.backends.aie.plan.devices import Device
from rubicc.backends.aie.plan.model import End, Link, Reader, SharedBuffer, Slice, Stream, Writer
from rubicc.backends.aie.plan.split import SLOT


@dataclass(frozen=True)
class Source:
    """Who writes part of an edge: a tile or a PLIO."""

    end: End
    blocks: Slice
    turn: int = 0


@dataclass(frozen=True)
class Need:
    """What a tile reads of an edge."""

    tile: str
    blocks: Slice
    turn: int = 0


@dataclass(frozen=True)
class Limits:
    """What one link must respect.

    Attributes:
        down, up: streams into and out of the memory tiles of a column from and to cores.
        channels, descriptors, bytes: of a memory tile; bytes 0 without memory tiles.
    """

    down: int
    up: int
    channels: int
    descriptors: int
    bytes: int

    @classmethod
    def of(cls, device: Device) -> Limits:
        """Of a device."""
        if not device["memory_tile_rows"]:
            return cls(1, 1, 0, 0, 0)
        channels = int(device["memory_tile_channels"])
        return cls(
            min(device["column_down"], channels), min(device["column_up"], channels), channels,
            device["memory_tile_descriptors"], device["memory_tile_bytes"],
        )  # fmt: skip


DEPTH = 2  # buffers of an adf::shared_buffer: ping and pong (UG1603)
Turns = dict[int, list[End]]  # readers of the same blocks by turn


def pieces(need: Slice, sources: list[tuple[Slice, int]], down: int) -> list[Slice]:
    """``need`` cut where one memory tile would take more than ``down`` streams.

    Args:
        need: channel blocks.
        sources: slice and number of writers of each part of the edge, in order.
        down: most writers of one buffer.
    """
    cuts, count = [need.first], 0
    for blocks, writers in sources:
        if not blocks.meets(need):
            continue
        if count and count + writers > down:
            cuts.append(max(blocks.first, need.first))
            count = 0
        count += writers
    return [Slice(a, b - a) for a, b in zip(cuts, [*cuts[1:], need.end], strict=True)]


@dataclass
class Wiring:
    """Links before memory tiles have places, and the ports they give every tile.

    Attributes:
        links: in order.
        ports: input ports of every tile: ``(edge, blocks)`` in order; the index is the DMA channel.
    """

    links: list[Link] = field(default_factory=list)
    ports: dict[str, list[tuple[str, Slice]]] = field(default_factory=lambda: defaultdict(list))

    def port(self, tile: str, edge: str, blocks: Slice) -> End:
        """A new input port of ``tile``."""
        self.ports[tile].append((edge, blocks))
        return End(tile, f"in{len(self.ports[tile]) - 1}")


def direct(wiring: Wiring, edge: str, who: tuple[int, int], sources: list[Source], needs: list[Need]) -> None:
    """Add a link of streams: every reader gets the whole blocks of each writer it needs part of."""
    targets: dict[Source, list[End]] = defaultdict(list)
    for need in needs:
        for source in sources:
            if source.blocks.meets(need.blocks):
                targets[source].append(wiring.port(need.tile, edge, source.blocks))
    streams = tuple(Stream(source.end, tuple(ends), source.blocks) for source, ends in targets.items())
    wiring.links.append(Link(edge, *who, (), streams))


def stored(
    wiring: Wiring, edge: str, who: tuple[int, int], sources: list[Source], needs: list[Need],
    limits: Limits, frames: int, lead: int,
) -> bool:  # fmt: skip
    """Add a link through memory tiles; False when a buffer would not fit one.

    Args:
        frames: Tb.
        lead: work units that one of its two buffers must hold at least, because another branch is that late.
    """
    units = math.lcm(1 + max(s.turn for s in sources), 1 + max(n.turn for n in needs))
    units *= -(-lead // units)
    writers: dict[Slice, int] = defaultdict(int)
    for source in sources:
        writers[source.blocks] += 1
    ordered = sorted(writers.items())
    readers: dict[Slice, Turns] = defaultdict(lambda: defaultdict(list))
    for need in needs:
        for piece in pieces(need.blocks, ordered, limits.down):
            readers[piece][need.turn].append(wiring.port(need.tile, edge, piece))
    buffers: list[SharedBuffer] = []
    held: dict[Slice, Turns] = {}
    for piece, turns in sorted(readers.items(), key=lambda pair: pair[0]):
        if held and _buffer(held | {piece: turns}, sources, limits, frames, units) is None:
            made = _buffer(held, sources, limits, frames, units)
            if made is None:
                return False
            buffers.append(made)
            held = {}
        held[piece] = turns
    made = _buffer(held, sources, limits, frames, units)
    if made is None:
        return False
    wiring.links.append(Link(edge, *who, (*buffers, made), ()))
    return True


def halves(buffer: SharedBuffer, frames: int, limits: Limits) -> list[SharedBuffer] | None:
    """``buffer`` as two of half the readers each, or None when all read the same blocks."""
    readers: dict[Slice, Turns] = defaultdict(lambda: defaultdict(list))
    for reader in buffer.readers:
        readers[reader.blocks][reader.turn] += reader.targets
    if len(readers) < 2:
        return None
    sources = [Source(writer.source, writer.blocks, writer.turn) for writer in buffer.writers]
    items, half = sorted(readers.items(), key=lambda pair: pair[0]), len(readers) // 2
    made = [_buffer(dict(p), sources, limits, frames, buffer.units) for p in (items[:half], items[half:])]
    return [buffer for buffer in made if buffer is not None]


def _buffer(
    readers: dict[Slice, Turns], sources: list[Source], limits: Limits, frames: int, units: int
) -> SharedBuffer | None:
    """One buffer for these readers, or None when it breaks a limit. Writers with nothing to read in it stay
    out; those with something write all their blocks."""
    mine = [s for s in sources if any(s.blocks.meets(blocks) for blocks in readers)]
    first, end = min(s.blocks.first for s in mine), max(s.blocks.end for s in mine)
    size = (end - first) * frames * SLOT * units * DEPTH
    groups = [(blocks, turn, ends) for blocks, turns in readers.items() for turn, ends in turns.items()]
    tiles = sum(1 for source in mine if source.end.port)
    inside = tiles <= limits.down and len(mine) <= limits.channels and len(groups) <= limits.up
    pool = max((len(mine) + 1) // 2 + len(groups) // 2, len(mine) // 2 + (len(groups) + 1) // 2) * DEPTH
    if not inside or size > limits.bytes or pool > limits.descriptors // 2:
        return None
    writers = tuple(Writer(s.end, s.blocks, i, s.turn) for i, s in enumerate(mine))
    made = tuple(Reader(tuple(ends), blocks, i, turn) for i, (blocks, turn, ends) in enumerate(groups))
    return SharedBuffer("", -1, -1, Slice(first, end - first), units, DEPTH, 0, size, writers, made)


@dataclass
class _Column:
    down: int = 0
    up: int = 0


@dataclass
class _MemoryTile:
    bytes: int = 0
    writers: int = 0
    readers: int = 0
    pools: list[int] = field(default_factory=lambda: [0, 0])


class Memories:
    """Memory tiles with what is left of them; buffers go to the nearest that takes them."""

    def __init__(self, device: Device, limits: Limits) -> None:
        self._device, self._limits = device, limits
        rows = int(device["memory_tile_rows"])
        self._columns = [_Column() for _ in range(int(device["columns"]))]
        self._tiles = {(c, r): _MemoryTile() for c in range(int(device["columns"])) for r in range(rows)}
        self._names = 0

    def put(self, buffer: SharedBuffer, target: float) -> SharedBuffer | None:
        """``buffer`` with a place near column ``target``, or None when all memory tiles are full."""
        down = sum(1 for writer in buffer.writers if writer.source.port)
        up = sum(1 for reader in buffer.readers if any(end.port for end in reader.targets))
        for (column, row), tile in sorted(
            self._tiles.items(), key=lambda pair: (abs(pair[0][0] - target), pair[0])
        ):
            use = self._columns[column]
            if use.down + down > self._device["column_down"] or use.up + up > self._device["column_up"]:
                continue
            made = self._fit(buffer, tile)
            if made is not None:
                use.down, use.up = use.down + down, use.up + up
                self._names += 1
                return replace(made, name=f"m{self._names - 1}", column=column, row=row)
        return None

    def _fit(self, buffer: SharedBuffer, tile: _MemoryTile) -> SharedBuffer | None:
        """Channels of even and odd number have a pool of descriptors each; readers begin with either."""
        for skip in (0, 1):
            begins = (tile.writers, tile.readers + skip)
            pools = list(tile.pools)
            for begin, ends in zip(begins, (buffer.writers, buffer.readers), strict=True):
                for at in range(len(ends)):
                    pools[(begin + at) % 2] += buffer.depth
            writers, readers = begins[0] + len(buffer.writers), begins[1] + len(buffer.readers)
            full = max(writers, readers) > self._limits.channels
            if (
                full
                or tile.bytes + buffer.bytes > self._limits.bytes
                or max(pools) > self._limits.descriptors // 2
            ):
                continue
            made = replace(
                buffer, offset=tile.bytes,
                writers=tuple(replace(w, channel=i + begins[0]) for i, w in enumerate(buffer.writers)),
                readers=tuple(replace(r, channel=i + begins[1]) for i, r in enumerate(buffer.readers)),
            )  # fmt: skip
            tile.bytes, tile.writers, tile.readers = tile.bytes + buffer.bytes, writers, readers
            tile.pools = pools
            return made
        return None
