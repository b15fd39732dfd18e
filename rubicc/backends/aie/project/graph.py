"""``src/graph.h``: the plan as an ADF graph. Nothing is decided here; every number is the plan's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from rubicc.backends.aie.net import Net
from rubicc.backends.aie.numbers import SLOT_BYTES
from rubicc.backends.aie.plan.model import (
    AiePlan,
    End,
    Link,
    Plio,
    Port,
    Segment,
    SharedBuffer,
    Slice,
    Stage,
    Tile,
)
from rubicc.backends.aie.project.framing import Framing
from rubicc.backends.aie.project.text import identifier, words

_HEAD = """\
// {name} on {device}, written by rubicc: {tiles} kernels, work units of {block} frames.
//
// Buffers hold [channel block][frame][8 bytes]. Every number comes from plan.json.
#pragma once

#include <adf.h>
{includes}

// Places a kernel: what every one of them needs.
template <class Kernel>
inline adf::kernel placed(const char* source, int column, int row, double busy) {{
  adf::kernel k = adf::kernel::create_object<Kernel>();
  adf::source(k) = source;
  adf::runtime<adf::ratio>(k) = busy;
  adf::location<adf::kernel>(k) = adf::tile(column, row);
  return k;
}}

// A contiguous part of a buffer of one dimension.
inline adf::tiling_parameters part(unsigned size, unsigned first, unsigned count) {{
  return {{.buffer_dimension = {{size}}, .tiling_dimension = {{count}}, .offset = {{int(first)}}}};
}}
{turns}"""

_TURNS = """
// A contiguous part of every `stride`-th work unit of a buffer, from unit `turn` on.
inline adf::tiling_parameters part(unsigned size, unsigned units, unsigned first, unsigned count,
                                   unsigned turn, unsigned stride) {
  return {.buffer_dimension = {size, units},
          .tiling_dimension = {count, 1},
          .offset = {int(first), int(turn)},
          .tile_traversal = {{.dimension = 1, .stride = stride, .wrap = units / stride}}};
}
"""


class Instance(Protocol):
    """A kernel as its writer describes it."""

    @property
    def cls(self) -> str:
        """C++ class."""
        ...

    @property
    def header(self) -> str:
        """File to include, below ``src``."""
        ...

    @property
    def source(self) -> str:
        """File with its members, below the project."""
        ...

    @property
    def stack(self) -> int:
        """Bytes of stack."""
        ...


class GraphWriter:
    """Writes the graph of a plan.

    Args:
        kernels: by tile name.
        name: of the project.
    """

    def __init__(self, plan: AiePlan, net: Net, kernels: Mapping[str, Instance], name: str) -> None:
        self.plan, self.net, self.kernels, self.name = plan, net, kernels, name
        self.framing = Framing(plan, net)
        self.tiles = {tile.name: tile for tile in plan.tiles}
        self.stage_of = {tile.name: stage for stage in plan.stages for tile in stage.tiles}
        self.feeds_cascade = {tile.cascade_from for tile in plan.tiles if tile.cascade_from}

    def text(self) -> str:
        """The whole header."""
        headers = dict.fromkeys(kernel.header for kernel in self.kernels.values())
        turning = any(buffer.units > 1 for link in self.plan.links for buffer in link.buffers)
        parts = [
            _HEAD.format(
                name=words(self.name),
                device=words(self.plan.device),
                tiles=len(self.tiles),
                block=self.plan.block,
                includes="\n".join(f'#include "{header}"' for header in headers),
                turns=_TURNS if turning else "",
            )
        ]
        parts += [self._segment(segment) for segment in self.plan.segments]
        parts.append(self._whole())
        return "\n".join(parts)

    def _segment(self, segment: Segment) -> str:
        stages = [stage for stage in self.plan.stages if stage.segment == segment.index]
        plios = [*self.framing.plios(segment, "in"), *self.framing.plios(segment, "out")]
        links = [link for link in self.plan.links if self._inside(link, segment)]
        way = "time runs backward" if segment.reverse else "time runs forward"
        lines = [f"// {', '.join(words(edge) for edge in segment.inputs)}: {way}."]
        lines += [f"class segment{segment.index} : public adf::graph {{", " public:"]
        lines += self._members(stages, plios, links)
        lines += ["", f"  segment{segment.index}() {{"]
        for number, plio in enumerate(plios):
            lines += ([] if number else [""]) + [f"    {line}" for line in self._plio(plio)]
        for stage in stages:
            lines += ["", *(f"    {line}" for line in self._stage(stage))]
        for link in links:
            lines += ["", *(f"    {line}" for line in self._link(link))]
        return "\n".join([*lines, "  }", "};", ""])

    def _whole(self) -> str:
        """All segments in one graph, for the device; a simulation runs one after the other."""
        rows = [f"  segment{segment.index} part{segment.index};" for segment in self.plan.segments]
        return "\n".join(["class whole : public adf::graph {", " public:", *rows, "};", ""])

    def _inside(self, link: Link, segment: Segment) -> bool:
        stages = {stage.index: stage.segment for stage in self.plan.stages}
        ends = [stages[index] for index in (link.producer, link.consumer) if index >= 0]
        return bool(ends) and ends[0] == segment.index

    def _members(self, stages: Sequence[Stage], plios: Sequence[Plio], links: Sequence[Link]) -> list[str]:
        lines = [f"  adf::{_put(plio)} {identifier(plio.name)};" for plio in plios]
        for stage in stages:
            names = ", ".join(identifier(tile.name) for tile in stage.tiles)
            lines.append(f"  adf::kernel {names};  // {words(stage.source or stage.layer)}")
        for link in links:
            for buffer in link.buffers:
                kind = self.net.edges[link.edge].type.cpp
                lines.append(f"  adf::shared_buffer<{kind}> {identifier(buffer.name)};")
        return lines

    def _plio(self, plio: Plio) -> Iterator[str]:
        made = f"adf::{_put(plio)}::create"
        name = identifier(plio.name)
        yield f'{name} = {made}("{name}", adf::plio_{plio.bits}_bits, "{data_file(plio)}", {plio.mhz:g});'
        yield f"adf::location<adf::PLIO>({name}) = adf::shim({plio.column});"

    def _stage(self, stage: Stage) -> Iterator[str]:
        split = stage.split
        spread = f"{split.tiles} tiles (n {split.n}, k {split.k}, j {split.j}, t {split.t})"
        yield f"// {words(stage.layer)}"
        yield f"// {words(stage.source)}: {words(stage.variant)}, {spread}, lag {stage.lag}"
        for tile in stage.tiles:
            yield from self._tile(stage, tile)
        for tile in stage.tiles:
            if tile.cascade_from:
                before = f"{tile.cascade_from}.out[0]"
                yield f"adf::connect<adf::cascade>({before}, {tile.name}.in[{len(inputs_of(tile))}]);"

    def _tile(self, stage: Stage, tile: Tile) -> Iterator[str]:
        kernel, name = self.kernels[tile.name], tile.name
        busy = min(0.99, max(0.01, round(tile.busy, 3)))
        place = f"{tile.column}, {tile.row}, {busy:g}"
        yield f'{name} = placed<{kernel.cls}>("{kernel.source}", {place});'
        yield f"adf::stack_size({name}) = {kernel.stack};"
        ports = [(f"in[{number}]", port) for number, port in enumerate(inputs_of(tile))]
        ports += [("out[0]", port) for port in tile.ports if port.name.startswith("out")]
        for end, port in ports:
            yield f"adf::dimensions({name}.{end}) = {{{self._elements(port.edge, port.blocks)}}};"
            if port.buffers == 1:
                yield f"adf::single_buffer({name}.{end});"

    def _elements(self, edge: str, blocks: Slice) -> int:
        return blocks.count * self.plan.block * self.net.edges[edge].type.block

    def _link(self, link: Link) -> Iterator[str]:
        yield f"// {words(link.edge)}"
        for stream in link.streams:
            for target in stream.targets:
                yield f"adf::connect<>({self._from(stream.source)}, {self._to(target)});"
        for buffer in link.buffers:
            yield from self._buffer(link.edge, buffer)

    def _buffer(self, edge: str, buffer: SharedBuffer) -> Iterator[str]:
        name, size = buffer.name, self._elements(edge, buffer.blocks)
        kind = self.net.edges[edge].type.cpp
        dims = f"{size}, {buffer.units}" if buffer.units > 1 else f"{size}"
        ends = f"{len(buffer.writers)}, {len(buffer.readers)}"
        yield f"{name} = adf::shared_buffer<{kind}>::create({{{dims}}}, {ends});"
        yield f"adf::num_buffers({name}) = {buffer.depth};"
        each = buffer.blocks.count * self.plan.block * SLOT_BYTES * buffer.units
        places = [
            f"adf::address({buffer.column}, {buffer.row}, {buffer.offset + turn * each})"
            for turn in range(buffer.depth)
        ]
        yield f"adf::location<adf::buffer>({name}) = {{{', '.join(places)}}};"
        for number, writer in enumerate(buffer.writers):
            yield f"adf::connect<>({self._from(writer.source)}, {name}.in[{number}]);"
            what = self._part(edge, buffer, writer.blocks, writer.turn, self._turns(writer.source))
            yield f"adf::write_access({name}.in[{number}]) = adf::tiling({what});"
        for number, reader in enumerate(buffer.readers):
            for target in reader.targets:
                yield f"adf::connect<>({name}.out[{number}], {self._to(target)});"
            what = self._part(edge, buffer, reader.blocks, reader.turn, self._turns(reader.targets[0]))
            yield f"adf::read_access({name}.out[{number}]) = adf::tiling({what});"

    def _part(self, edge: str, buffer: SharedBuffer, blocks: Slice, turn: int, turns: int) -> str:
        first = self._elements(edge, Slice(0, blocks.first - buffer.blocks.first))
        size, count = self._elements(edge, buffer.blocks), self._elements(edge, blocks)
        if buffer.units == 1:
            return f"part({size}, {first}, {count})"
        return f"part({size}, {buffer.units}, {first}, {count}, {turn}, {turns})"

    def _turns(self, end: End) -> int:
        stage = self.stage_of.get(end.at)
        return 1 if stage is None else stage.split.t

    def _from(self, end: End) -> str:
        return f"{identifier(end.at)}.out[0]"

    def _to(self, end: End) -> str:
        if not end.port:
            return f"{identifier(end.at)}.in[0]"
        names = [port.name for port in inputs_of(self.tiles[end.at])]
        return f"{identifier(end.at)}.in[{names.index(end.port)}]"


def inputs_of(tile: Tile) -> list[Port]:
    """Input buffer ports of a tile, in the order of the kernel's arguments."""
    return [port for port in tile.ports if port.name.startswith("in")]


def data_file(plio: Plio) -> str:
    """File a simulation reads or writes at a PLIO, below the project."""
    return f"data/{identifier(plio.name)}.txt"


def _put(plio: Plio) -> str:
    return "input_plio" if plio.direction == "in" else "output_plio"
