"""Writes the kernels of a plan: a header and a source per layer, a class per tile, weights as constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from rubicc.backends.aie.kernels import cells, sequence
from rubicc.backends.aie.kernels.pack import Share, share
from rubicc.backends.aie.net import Add, Attention, Cell, Conv, Gru, Layer, Lstm, Net, Norm, Table
from rubicc.backends.aie.numbers import SLOT_BYTES, Type
from rubicc.backends.aie.plan.model import AiePlan, Port, Stage, Tile
from rubicc.errors import Unsupported

HEADERS = ("blocks.h", "convolve.h", "elementwise.h", "cells.h", "sequence.h")
STACK = 1024
MOST_SHIFT = 31
TEMPLATES: dict[type[Layer], str] = {
    Conv: "convolve",
    Add: "add",
    Table: "table",
    Gru: "gru",
    Lstm: "lstm",
    Norm: "norm",
    Attention: "attention",
}
_BLOCKS = (Norm, Attention)


@dataclass(frozen=True)
class Instance:
    """A kernel for the graph.

    Attributes:
        cls: C++ class, made without arguments.
        header: file that declares it, below ``src``.
        source: file with its members, below the project.
        stack: bytes of stack.
    """

    cls: str
    header: str
    source: str
    stack: int = STACK


def write(plan: AiePlan, net: Net, folder: Path) -> dict[str, Instance]:
    """Write ``src/kernels`` of a project.

    Arguments of a kernel: input buffers in the order of the tile's ports, cascade in, output buffer, cascade
    out.

    Returns:
        By tile name.

    Raises:
        Unsupported: ``RUB-AIE-301`` a layer that has no kernel yet, with the whole table.
    """
    home = folder / "src" / "kernels"
    home.mkdir(parents=True, exist_ok=True)
    layers = {layer.name: layer for layer in net.layers}
    refused = [(stage, why) for stage in plan.stages if (why := refusal(layers[stage.layer], plan, stage))]
    if refused:
        stage, why = refused[0]
        what = f"{len(refused)} layers have no kernel: {why}"
        hint = "choose --target cpu, or replace the layer"
        raise Unsupported("RUB-AIE-301", what, where=stage.source or stage.layer, hint=hint)
    for name in HEADERS:
        text = files("rubicc.backends.aie.kernels").joinpath("include", name).read_text(encoding="utf-8")
        (home / name).write_text(text, encoding="utf-8")
    feeding = {tile.cascade_from for tile in plan.tiles if tile.cascade_from}
    made: dict[str, Instance] = {}
    for stage in plan.stages:
        writer = _StageWriter(plan, net, stage, layers[stage.layer], feeding)
        name = f"s{stage.index:02d}"
        (home / f"{name}.h").write_text(writer.header(), encoding="utf-8")
        (home / f"{name}.cpp").write_text(writer.source(f"{name}.h"), encoding="utf-8")
        for tile in stage.tiles:
            made[tile.name] = Instance(f"k_{tile.name}", f"kernels/{name}.h", f"src/kernels/{name}.cpp")
    return made


def refusal(layer: Layer, plan: AiePlan, stage: Stage) -> str:
    """Why a layer has no kernel; empty where it has one."""
    if isinstance(layer, Conv):
        low, high = int(layer.shift.min()), int(layer.shift.max())
        if low < 0 or high > MOST_SHIFT:
            return f"it drops {low} to {high} bits; kernels drop 0 to {MOST_SHIFT}"
        if stage.split.t > 1 and stage.history[0]:
            return "a convolution over time whose tiles take turns"
        return ""
    if isinstance(layer, Add):
        return "" if stage.split.t == 1 or not any(stage.delays) else "a delayed sum whose tiles take turns"
    if isinstance(layer, Cell):
        return cells.refusal(layer, stage)
    if isinstance(layer, _BLOCKS):
        return sequence.refusal(layer, plan, stage)
    return "" if isinstance(layer, Table) else f"{stage.kind} has no kernel"


class _StageWriter:
    """Header and source of one layer."""

    def __init__(self, plan: AiePlan, net: Net, stage: Stage, layer: Layer, feeding: set[str]) -> None:
        self.plan, self.net, self.stage, self.layer, self.feeding = plan, net, stage, layer, feeding
        self.to = net.edges[stage.output].type
        self.reads = [net.edges[name].type for name in stage.inputs]
        self.wide = Type(stage.widths[0], self.reads[0].signed or stage.widths[0] > self.reads[0].bits)
        self.weight = Type(max(8, stage.widths[1])) if stage.widths[1] else Type(8)
        self.sum = "acc64" if stage.widths[0] + stage.widths[1] > 24 else "acc32"
        self.shares = (
            {t.name: share(layer, net, stage, t) for t in stage.tiles} if isinstance(layer, Conv) else {}
        )

    def header(self) -> str:
        template = "convolve" if isinstance(self.layer, Conv) else "elementwise"
        template = "cells" if isinstance(self.layer, Cell) else template
        template = "sequence" if isinstance(self.layer, _BLOCKS) else template
        lines = ["#pragma once", "", *self._about(), f'#include "{template}.h"', ""]
        specs: dict[str, str] = {}
        classes: list[str] = []
        for tile in self.stage.tiles:
            fields = self._fields(tile)
            if fields not in specs:
                specs[fields] = f"spec_s{self.stage.index}_{len(specs)}"
                lines += [f"struct {specs[fields]} {{", fields, "};"]
            classes.append(self._class(tile, specs[fields]))
        return "\n".join([*lines, *classes]) + "\n"

    def source(self, header: str) -> str:
        parts = [f'#include "{header}"', ""]
        for tile in self.stage.tiles:
            parts += [*self._constants(tile), f"void k_{tile.name}::run({self._arguments(tile)}) {{"]
            parts += [f"  {line}" for line in self._body(tile)]
            parts += ["}", ""]
        return "\n".join(parts)

    def _about(self) -> Iterator[str]:
        from rubicc.backends.aie.project.text import words

        yield f"// {words(self.stage.layer)}"
        yield f"// {words(self.stage.source)}: {self.stage.kind}, {words(self.stage.variant)}"

    def _fields(self, tile: Tile) -> str:
        """The Spec of a tile's template."""
        if isinstance(self.layer, Conv):
            rows = self._convolution(self.layer, tile)
        elif isinstance(self.layer, Add):
            rows = self._sum(self.layer, tile)
        elif isinstance(self.layer, Cell):
            rows = cells.spec(self.plan, self.net, self.stage, self.layer, self._inputs(tile))
        elif isinstance(self.layer, _BLOCKS):
            rows = sequence.spec(self.plan, self.net, self.stage, self.layer, tile)
        else:
            assert isinstance(self.layer, Table)
            rows = self._table(self.layer, tile)
        types = [f"  using {name} = {value};" for name, value in rows if isinstance(value, str)]
        numbers = [f"{name} = {value}" for name, value in rows if not isinstance(value, str)]
        return "\n".join([*types, f"  static constexpr int {', '.join(numbers)};"])

    def _convolution(self, layer: Conv, tile: Tile) -> list[tuple[str, str | int]]:
        made, reach = self.shares[tile.name], self.stage.history[0]
        step = layer.dilation * self.plan.lanes
        before = self.stage.lag - (reach - layer.pads[0] * self.plan.lanes if reach else 0)
        return [
            ("X", self.reads[0].cpp), ("M", self.wide.cpp), ("W", self.weight.cpp), ("Y", self.to.cpp),
            ("SUM", self.sum), ("FRAMES", self.plan.block), ("GROUPS", made.groups), ("IN", made.slots),
            ("OUT", made.blocks), ("FIRST", made.first), ("TAPS", made.taps), ("REACH", reach),
            ("DILATION", step), ("RELU", int(layer.relu)), ("PERIOD", self.plan.period),
            ("LENGTH", self.plan.lengths[layer.inputs[0]]), ("LAG", before),
            ("PORTS", len(self._inputs(tile))),
        ]  # fmt: skip

    def _sum(self, layer: Add, tile: Tile) -> list[tuple[str, str | int]]:
        return [
            ("A", self.reads[0].cpp), ("B", self.reads[1].cpp), ("Y", self.to.cpp),
            ("FRAMES", self.plan.block), ("BLOCKS", -(-tile.outputs.count * self.to.block // 8)),
            ("RELU", int(layer.relu)), ("LEFT_A", layer.left[0]), ("LEFT_B", layer.left[1]),
            ("SHIFT", layer.shift), ("DELAY_A", self.stage.delays[0]), ("DELAY_B", self.stage.delays[1]),
        ]  # fmt: skip

    def _table(self, layer: Table, tile: Tile) -> list[tuple[str, str | int]]:
        return [
            ("X", self.reads[0].cpp), ("Y", self.to.cpp), ("FRAMES", self.plan.block),
            ("SLOTS", tile.inputs.count), ("BITS", layer.lookup.bits), ("SHIFT", layer.lookup.shift),
        ]  # fmt: skip

    def _class(self, tile: Tile, spec: str) -> str:
        kind = TEMPLATES[type(self.layer)]
        return f"""
class k_{tile.name} {{
 public:
  void run({self._arguments(tile)});
  static void registerKernelClass() {{ REGISTER_FUNCTION(k_{tile.name}::run); }}

 private:
  rubicc::{kind}<{spec}> layer_;
}};"""

    def _arguments(self, tile: Tile) -> str:
        rows = [f"adf::input_buffer<{self._type(p).cpp}>& in{i}" for i, p in enumerate(self._inputs(tile))]
        if tile.cascade_from:
            rows.append(f"input_cascade<{self.sum}>* before")
        if not self._feeds(tile):
            rows.append(f"adf::output_buffer<{self.to.cpp}>& out")
        else:
            rows.append(f"output_cascade<{self.sum}>* after")
        return ", ".join(rows)

    def _constants(self, tile: Tile) -> Iterator[str]:
        if isinstance(self.layer, Table):
            yield _array(f"entries_{tile.name}", self.to.cpp, self.layer.lookup.entries)
        if isinstance(self.layer, _BLOCKS):
            for what, kind, values in sequence.constants(self.layer):
                yield _array(f"{what}_{tile.name}", kind, values)
        if isinstance(self.layer, Cell):
            weight = Type(max(8, self.layer.recurrent_type.bits))
            yield _array(f"weights_{tile.name}", weight.cpp, cells.weights(self.layer))
            yield _array(f"bias_{tile.name}", "int32", cells.bias(self.layer))
            yield _array(f"shift_{tile.name}", "int", cells.shift(self.layer))
            for name, lookup in cells.tables(self.layer).items():
                yield _array(f"{name}_{tile.name}", "int16", lookup.entries)
        if isinstance(self.layer, Conv):
            made = self.shares[tile.name]
            yield _array(f"weights_{tile.name}", self.weight.cpp, made.weights)
            if not tile.cascade_from:
                yield _array(f"bias_{tile.name}", "int32", made.bias)
            if not self._feeds(tile):
                yield _array(f"shift_{tile.name}", "int", made.shift)

    def _body(self, tile: Tile) -> Iterator[str]:
        name = tile.name
        if isinstance(self.layer, Table):
            yield f"layer_.whole({self._at(tile, 0)}, out.data(), entries_{name});"
            return
        if isinstance(self.layer, Add):
            yield f"layer_.whole({self._at(tile, 0)}, {self._at(tile, 1)}, out.data());"
            return
        if isinstance(self.layer, _BLOCKS):
            given = ", ".join(f"{what}_{name}" for what, _, _ in sequence.constants(self.layer))
            yield f"layer_.whole({self._at(tile, 0)}, out.data(), {given});"
            return
        if isinstance(self.layer, Cell):
            second = "in1.data()" if len(self._inputs(tile)) > 1 else "nullptr"
            names = ["weights", "bias", "shift", *cells.tables(self.layer)]
            constants = ", ".join(f"{what}_{name}" for what in names)
            yield f"layer_.whole({{in0.data(), {second}}}, out.data(), {constants});"
            return
        yield from self._takes(tile)
        feeds = self._feeds(tile)
        if tile.cascade_from:
            call = "middle(before, after, {0})" if feeds else "last(before, out.data(), {0}, {2})"
        else:
            call = "first(after, {0}, {1})" if feeds else "whole(out.data(), {0}, {1}, {2})"
        yield f"layer_.{call.format(f'weights_{name}', f'bias_{name}', f'shift_{name}')};"

    def _takes(self, tile: Tile) -> Iterator[str]:
        """What of every port becomes which slots of the line."""
        for number, port in enumerate(self._inputs(tile)):
            first, end = max(port.blocks.first, tile.inputs.first), min(port.blocks.end, tile.inputs.end)
            offset = (first - port.blocks.first) * self._slot(port)
            yield f"layer_.take(in{number}.data() + {offset}, {first - tile.inputs.first}, {end - first});"

    def _at(self, tile: Tile, number: int) -> str:
        port = self._inputs(tile)[number]
        return f"in{number}.data() + {(tile.inputs.first - port.blocks.first) * self._slot(port)}"

    def _slot(self, port: Port) -> int:
        """Elements from one channel block to the next."""
        return self.plan.block * SLOT_BYTES * 8 // self._type(port).bits

    def _inputs(self, tile: Tile) -> list[Port]:
        return [port for port in tile.ports if port.name.startswith("in")]

    def _type(self, port: Port) -> Type:
        return self.net.edges[port.edge].type

    def _feeds(self, tile: Tile) -> bool:
        return tile.name in self.feeding


def _array(name: str, kind: str, values: np.ndarray) -> str:
    texts = list(map(str, values.tolist()))
    rows = ",\n  ".join(", ".join(texts[i : i + 24]) for i in range(0, len(texts), 24))
    return f"alignas(64) static const {kind} {name}[{len(texts)}] = {{\n  {rows}}};"


__all__ = ["Instance", "Share", "write"]
