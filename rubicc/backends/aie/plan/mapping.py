"""Picked splits on the array: names, places, links, PLIOs, memory of every tile."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rubicc.backends.aie.plan import links as wires
from rubicc.backends.aie.plan import place
from rubicc.backends.aie.plan.cycles import constant
from rubicc.backends.aie.plan.links import Need, Source, Wiring
from rubicc.backends.aie.plan.model import End, Item, Link, Plio, Port, Slice, Stream, Tile
from rubicc.backends.aie.plan.split import SLOT, Candidate, Share, buffers
from rubicc.backends.aie.plan.stages import Draft

if TYPE_CHECKING:
    from rubicc.backends.aie.plan.attempt import Attempt

PLIOS_A_COLUMN = 2  # of the 8 in and 6 out that an interface tile has


@dataclass(frozen=True)
class Made:
    """A mapping that fits, before it is written down as a plan.

    Attributes:
        picks: split of every stage.
        tiles: of every stage.
        links, plios: see the plan.
        interval: cycles between work units.
        bound: what sets it.
        latency: cycles from the first frame in to the first frame out.
    """

    picks: tuple[Candidate, ...]
    tiles: tuple[tuple[Tile, ...], ...]
    links: tuple[Link, ...]
    plios: tuple[Plio, ...]
    interval: float
    bound: str
    latency: float


class Mapping:
    """Tiles, links and memory for picked splits."""

    def __init__(self, base: Attempt, picks: list[Candidate], chains: list[list[place.Position]]) -> None:
        self.base, self.picks = base, picks
        self.names: list[list[str]] = []
        self.at: dict[str, place.Position] = {}
        self.share: dict[str, Share] = {}
        self.before: dict[str, str] = {}
        chain = iter(chains)
        for index, pick in enumerate(picks):
            names: list[str] = []
            for share in base.wired[index, pick.split]:
                if share.place == 0:
                    spots = iter(next(chain))
                name = f"s{index}_n{share.part}"
                name += f"_t{share.turn}" if pick.split.t > 1 else ""
                name += f"_c{share.place}" if pick.split.chain > 1 else ""
                self.before[name] = names[-1] if share.place else ""
                self.at[name], self.share[name] = next(spots), share
                names.append(name)
            self.names.append(names)
        self.leads: dict[tuple[str, int], int] = {}
        self.early = 0
        self.plios: list[Plio] = []
        self.columns: dict[int, int] = {}

    def made(self) -> Made | None:
        """The mapping, or None where streams, memory tiles or tile memory run out."""
        base = self.base
        floors = [max(p.floor, self._cycles(at) / p.split.t) for at, p in enumerate(self.picks)]
        start = self._starts(max(floors))
        if self.early > 1:
            base.why = f"a branch leads by {self.early} work units; two buffers and no memory tiles hold 1"
            return None
        wiring = self._wire()
        if wiring is None:
            return None
        linked = self._store(self._share_memory(wiring.links))
        if linked is None:
            base.why = "memory tiles or their streams run out: " + base.why
            return None
        tiles = self._tiles(wiring, linked)
        if tiles is None or self._crowded(linked):
            return None
        rates = [(pick.floor, f"{base.name(at)}: stream") for at, pick in enumerate(self.picks)]
        for at, pick in enumerate(self.picks):
            rates.append((self._cycles(at) / pick.split.t, f"{base.name(at)}: kernel"))
        rates += [(self._plio_cycles(p), f"PLIO {p.name} ({p.edge})") for p in self.plios]
        rates += _port_rates(tiles, base)
        slowest, bound = max(rates, key=lambda rate: (rate[0], "kernel" in rate[1]))
        busy = tuple(
            tuple(replace(t, busy=t.cycles / (slowest * self.picks[at].split.t)) for t in stage)
            for at, stage in enumerate(tiles)
        )
        return Made(tuple(self.picks), busy, linked, tuple(self.plios), slowest, bound, start[-1])

    def _plio_cycles(self, plio: Plio) -> float:
        return plio.blocks.count * self.base.frames * SLOT / self.base.device.plio_bytes()

    def _starts(self, interval: float) -> list[float]:
        """When each stage begins its first work unit; the last entry is when the last one is done.

        Where branches meet, the early one is held in buffers of several work units: a power of two (so that
        the graph repeats soon), at least what it leads by, and filled before it is read.
        """
        base, end = self.base, 0.0
        begin: list[float] = []
        for at in range(len(base.drafted.stages)):
            ready = {e: self._arrives(e, producer, begin) for e, producer, c in base.edges if c == at}
            latest = max(ready.values())
            if len(ready) > 1:
                for edge, when in ready.items():
                    lead = math.ceil((latest - when) / interval - 1e-9)
                    if not base.limits.bytes:
                        self.early = max(self.early, lead)
                    self.leads[edge, at] = 1 << lead.bit_length() if lead else 1
                held = [when + (self.leads[e, at] - 1) * interval for e, when in ready.items()]
                latest = max(latest, *held)
            begin.append(latest)
            end = max(end, begin[at] + self._busy(at))
        return [*begin, end]

    def _cycles(self, at: int) -> float:
        return max(share.cycles for share in self.base.wired[at, self.picks[at].split])

    def _busy(self, at: int) -> float:
        pick = self.picks[at]
        return self._cycles(at) + (pick.split.chain - 1) * constant("hop")

    def _arrives(self, edge: str, producer: int, begin: list[float]) -> float:
        base = self.base
        if producer < 0:
            made = [p for e, p, c in base.edges if e == edge and c < 0]
            before = begin[made[0]] + self._busy(made[0]) if made else 0.0
            blocks = base.drafted.slots[edge]
        else:
            before = begin[producer] + self._busy(producer)
            blocks = max(share.outputs.count for share in base.shares(producer, self.picks[producer]))
        return before + 2 * blocks * base.frames * SLOT / base.device.stream_bytes

    def _wire(self) -> Wiring | None:
        base, wiring = self.base, Wiring()
        incoming = [edge for at in range(len(self.picks)) for edge in base.edges if edge[2] == at]
        for edge, producer, consumer in incoming:
            needs = [Need(n, self.share[n].inputs, self.share[n].turn) for n in self.names[consumer]]
            sources = self._sources(edge, producer, needs)
            lead = self.leads.get((edge, consumer), 1)
            who = (producer, consumer)
            if base.straight[consumer, self.picks[consumer].split]:
                wires.direct(wiring, edge, who, sources, needs)
            elif not wires.stored(wiring, edge, who, sources, needs, base.limits, base.frames, lead):
                base.why = f"{edge} into {base.name(consumer)}: 2 x {lead} work units of "
                base.why += (
                    f"{base.drafted.slots[edge]} blocks x {base.frames} frames do not fit a memory tile"
                )
                base.waiting, base.parts = consumer, self.picks[consumer].split.n
                return None
        for edge, producer, consumer in base.edges:
            if consumer < 0:
                self._drain(wiring, edge, producer)
        return wiring

    def _sources(self, edge: str, producer: int, needs: list[Need]) -> list[Source]:
        if producer >= 0:
            last = self.picks[producer].split.chain - 1
            shares = {n: self.share[n] for n in self.names[producer] if self.share[n].place == last}
            return [Source(End(n, "out0"), s.outputs, s.turn) for n, s in shares.items()]
        column = sum(self.at[need.tile][0] for need in needs) / len(needs)
        blocks = Slice(0, self.base.drafted.slots[edge])
        name = next((p.name for p in self.plios if p.edge == edge and p.direction == "in"), "")
        return [Source(End(name or self._plio("in", edge, blocks, column).name), blocks)]

    def _drain(self, wiring: Wiring, edge: str, producer: int) -> None:
        for source in self._sources(edge, producer, []):
            plio = self._plio("out", edge, source.blocks, self.at[source.end.at][0])
            streams = (Stream(source.end, (End(plio.name),), source.blocks),)
            wiring.links.append(Link(edge, producer, -1, (), streams))

    def _plio(self, direction: str, edge: str, blocks: Slice, near: float) -> Plio:
        device = self.base.device
        first, count = int(device["first_plio_column"]), device.facts["plio_columns"]
        usable = range(first, min(int(device["columns"]), first + count if count else 1 << 30))
        free = [c for c in usable if self.columns.get(c, 0) < PLIOS_A_COLUMN]
        column = min(free, key=lambda c: (abs(c - near), c))
        self.columns[column] = self.columns.get(column, 0) + 1
        plio = Plio(
            f"p{direction}{len(self.plios)}", direction, edge, blocks, int(device["plio_bits"]),
            float(device["plio_mhz"]), column,
        )  # fmt: skip
        self.plios.append(plio)
        return plio

    def _share_memory(self, links: list[Link]) -> list[Link]:
        """A stream from one tile to one neighbour needs no stream: both use the reader's buffer."""
        uses: dict[str, int] = {}
        for link in links:
            for end in [s.source for s in link.streams] + [w.source for b in link.buffers for w in b.writers]:
                uses[end.at] = uses.get(end.at, 0) + 1

        def near(stream: Stream) -> bool:
            ends = (stream.source, *stream.targets)
            if len(ends) != 2 or uses[stream.source.at] != 1 or not all(end.port for end in ends):
                return False
            return place.neighbours(self.base.device, self.at[ends[0].at], self.at[ends[1].at])

        return [
            replace(link, streams=tuple(replace(s, shared=near(s)) for s in link.streams)) for link in links
        ]

    def _store(self, links: list[Link]) -> tuple[Link, ...] | None:
        memories, made = wires.Memories(self.base.device, self.base.limits), []
        for link in links:
            placed, waiting = [], list(link.buffers)
            while waiting:
                buffer = waiting.pop(0)
                ends = [w.source for w in buffer.writers] + [e for r in buffer.readers for e in r.targets]
                columns = [self.at[end.at][0] for end in ends if end.at in self.at]
                found = memories.put(buffer, sum(columns) / len(columns))
                if found is not None:
                    placed.append(found)
                    continue
                two = wires.halves(buffer, self.base.frames, self.base.limits)
                if two is None:
                    self.base.why = f"no memory tile takes {len(buffer.writers)} writers and "
                    self.base.why += f"{len(buffer.readers)} readers of {link.edge} ({buffer.bytes} bytes)"
                    return None
                waiting = two + waiting
            made.append(replace(link, buffers=tuple(placed)))
        return tuple(made)

    def _crowded(self, links: tuple[Link, ...]) -> bool:
        """Whether more streams cross a line between columns than the rows of cores have."""
        columns = int(self.base.device["columns"])
        plios = {plio.name: plio.column for plio in self.plios}
        column = plios | {name: at[0] for name, at in self.at.items()}
        reach: dict[tuple[str, int], tuple[int, set[int]]] = {}  # a stream: where from, where to
        for link in links:
            for stream in link.streams:
                if not stream.shared:
                    begin = reach.setdefault((stream.source.at, 0), (column[stream.source.at], set()))
                    begin[1].update(column[end.at] for end in stream.targets)
            for buffer in link.buffers:
                for writer in buffer.writers:
                    begin = reach.setdefault((writer.source.at, 0), (column[writer.source.at], set()))
                    begin[1].add(buffer.column)
                for at, reader in enumerate(buffer.readers):
                    reach[buffer.name, at] = (buffer.column, {column[end.at] for end in reader.targets})
        east, west = [0] * columns, [0] * columns
        for start, ends in reach.values():
            for line in range(start, max(ends)):
                east[line] += 1
            for line in range(min(ends), start):
                west[line] += 1
        limit = int(self.base.device["row_streams"]) * int(self.base.device["rows"])
        most = max(*east, *west)
        if most > limit:
            line = (east if max(east) == most else west).index(most)
            self.base.why = f"{most} streams between columns {line} and {line + 1}, {limit} there are"
        return most > limit

    def _tiles(self, wiring: Wiring, links: tuple[Link, ...]) -> tuple[tuple[Tile, ...], ...] | None:
        shared = {s.source.at for link in links for s in link.streams if s.shared}
        into = {s.targets[0].at for link in links for s in link.streams if s.shared}
        made = []
        for at, names in enumerate(self.names):
            stage = self.base.drafted.stages[at]
            tiles = [self._tile(stage, name, wiring, name in shared, name in into) for name in names]
            over = next((t for t in tiles if t.memory[-1].offset + t.memory[-1].bytes > self._room()), None)
            if over is not None:
                used = over.memory[-1].offset + over.memory[-1].bytes
                self.base.why = f"{self.base.name(at)} needs {used} bytes of {self._room()} in a tile"
                return None
            made.append(tuple(tiles))
        return tuple(made)

    def _room(self) -> int:
        return int(self.base.device["memory_bytes"])

    def _tile(self, stage: Draft, name: str, wiring: Wiring, lends: bool, borrows: bool) -> Tile:
        share, frames = self.share[name], self.base.frames
        inputs = [(edge, blocks) for edge, blocks in wiring.ports[name]]
        sizes = [blocks.count * frames * SLOT for _, blocks in inputs]
        out = [] if share.work.cascade_out else [share.outputs.count * frames * SLOT]
        count = buffers(share, sizes + out, self.base.device)
        ports = [
            Port(f"in{i}", edge, blocks, sizes[i], -1 if borrows else i, count)
            for i, (edge, blocks) in enumerate(inputs)
        ]
        if out:
            ports.append(Port("out0", stage.layer.output, share.outputs, out[0], -1 if lends else 0))
        column, row = self.at[name]
        return Tile(
            name, column, row, share.outputs, share.inputs, share.taps, share.turn, share.place,
            self.before[name], tuple(ports), _layout(share, ports, lends), share.footprint.program,
            share.cycles, 0.0,
        )  # fmt: skip


def _port_rates(tiles: tuple[tuple[Tile, ...], ...], base: Attempt) -> list[tuple[float, str]]:
    """Cycles that the widest port of each stage takes on a stream."""
    return [
        (
            max(port.bytes for tile in stage for port in (*tile.ports, Port("", "", Slice(0, 0), 0, 0)))
            / base.device.stream_bytes / (1 + max(tile.turn for tile in stage)),
            f"{base.name(at)}: stream",
        )
        for at, stage in enumerate(tiles)
    ]  # fmt: skip


def _layout(share: Share, ports: list[Port], lends: bool) -> tuple[Item, ...]:
    """Everything one after the other: pings below, what the kernel alone uses between, pongs above, so that
    the two halves of a port lie in different banks."""
    own = [port for port in ports if not (lends and port.name == "out0")]
    want = [(f"{port.name}.ping", port.bytes) for port in own]
    want += list(share.footprint.items)
    want += [(f"{port.name}.pong", port.bytes) for port in own if port.buffers == 2]
    items, at = [], 0
    for what, size in want:
        if size:
            items.append(Item(what, at, size))
            at += -(-size // 32) * 32
    return tuple(items)
