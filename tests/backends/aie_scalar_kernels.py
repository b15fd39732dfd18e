"""Kernels of a plan in plain C++, one frame after the other: what the emitted graph is tested with alone.

They share nothing with the kernels that are emitted, so that a project in which both give the integers of the
network has its connections, tilings, lags and slices right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rubicc.backends.aie.net import Add, Conv, Net, Table
from rubicc.backends.aie.plan.model import AiePlan, Slice, Stage, Tile

HEADER = """
#pragma once
#include <adf.h>
#include <aie_api/aie.hpp>
template <int BLOCK>
struct places {
  // Whether frame f of this work unit is signal, `length` frames out of every `period`.
  static bool real(long unit, int f, int lag, int period, int length) {
    long at = (unit * BLOCK + f - lag) % period;
    if (at < 0) at += period;
    return at < length;
  }
};
inline long requantise(long long v, int shift, bool relu, long low, long high) {
  if (relu && v < 0) v = 0;
  if (shift > 0) {
    const long long floor = v >> shift, rest = v - (floor << shift), half = 1LL << (shift - 1);
    v = floor + (rest > half || (rest == half && (floor & 1)));
  } else {
    v <<= -shift;
  }
  return v < low ? low : v > high ? high : v;
}
"""


@dataclass(frozen=True)
class Instance:
    cls: str
    header: str
    source: str
    stack: int = 1024


def write(plan: AiePlan, net: Net, folder: Path) -> dict[str, Instance]:
    """As ``rubicc.backends.aie.kernels.write``."""
    home = folder / "src/kernels"
    home.mkdir(parents=True, exist_ok=True)
    (home / "plain.h").write_text(HEADER)
    made = {}
    feeding = {tile.cascade_from for tile in plan.tiles}
    for stage in plan.stages:
        declared, defined = [], []
        for tile in stage.tiles:
            one = _Kernel(plan, net, stage, tile, tile.name in feeding)
            declared.append(one.declared())
            defined.append(one.defined())
            made[tile.name] = Instance(
                f"k_{tile.name}", f"kernels/s{stage.index}.h", f"src/kernels/s{stage.index}.cpp"
            )
        (home / f"s{stage.index}.h").write_text('#pragma once\n#include "plain.h"\n' + "\n".join(declared))
        (home / f"s{stage.index}.cpp").write_text(f'#include "s{stage.index}.h"\n' + "\n".join(defined))
    return made


class _Kernel:
    def __init__(self, plan: AiePlan, net: Net, stage: Stage, tile: Tile, feeds: bool) -> None:
        self.plan, self.net, self.stage, self.tile, self.feeds = plan, net, stage, tile, feeds
        self.layer = next(layer for layer in net.layers if layer.name == stage.layer)
        self.ins = [port for port in tile.ports if port.name.startswith("in")]
        self.outs = [port for port in tile.ports if port.name.startswith("out")]
        self.to = net.edges[stage.output].type

    def arguments(self) -> str:
        rows = [
            f"adf::input_buffer<{self.net.edges[p.edge].type.cpp}>& in{i}" for i, p in enumerate(self.ins)
        ]
        if self.tile.cascade_from:
            rows.append("input_cascade<acc32>* before")
        rows += [f"adf::output_buffer<{self.to.cpp}>& out" for _ in self.outs]
        if self.feeds:
            rows.append("output_cascade<acc32>* after")
        return ", ".join(rows)

    def declared(self) -> str:
        kept = "\n".join(
            f"  long long kept{i}[{self.held(i) * self.channels(port.blocks, port.edge)}] = {{}};"
            for i, port in enumerate(self.ins)
        )
        return f"""
class k_{self.tile.name} {{
 public:
  void run({self.arguments()});
  static void registerKernelClass() {{ REGISTER_FUNCTION(k_{self.tile.name}::run); }}
 private:
  long unit_ = {self.tile.turn};
{kept}
}};"""

    def held(self, port: int) -> int:
        return self.reach(port) + self.plan.block

    def reach(self, port: int) -> int:
        if isinstance(self.layer, Conv):
            return (
                (self.layer.taps - 1) * self.layer.dilation * self.plan.lanes if not self.stage.packing else 0
            )
        return self.stage.delays[port]

    def channels(self, blocks: Slice, edge: str) -> int:
        return blocks.count * self.net.edges[edge].type.block

    def defined(self) -> str:
        lines = [
            f"void k_{self.tile.name}::run({self.arguments()}) {{",
            f"  constexpr int F = {self.plan.block};",
        ]
        for i, port in enumerate(self.ins):
            lines.append(self.remember(i, port.blocks, port.edge))
        lines.append(self.body())
        for i, port in enumerate(self.ins):
            if self.reach(i):
                each = self.channels(port.blocks, port.edge)
                count = self.reach(i) * each
                lines.append(f"  for (int i = 0; i < {count}; ++i) kept{i}[i] = kept{i}[i + F * {each}];")
        return "\n".join([*lines, f"  unit_ += {self.stage.split.t};", "}"])

    def remember(self, i: int, blocks: Slice, edge: str) -> str:
        each, slot = self.channels(blocks, edge), self.net.edges[edge].type.block
        length = self.plan.lengths[edge]
        lag = self.lag_of(i)
        at = f"(c / {slot} * F + f) * {slot} + c % {slot}"
        real = f"places<F>::real(unit_, f, {lag}, {self.plan.period}, {length})"
        return f"""  for (int f = 0; f < F; ++f)
    for (int c = 0; c < {each}; ++c)
      kept{i}[({self.reach(i)} + f) * {each} + c] = {real} ? (long long)in{i}.data()[{at}] : 0;"""

    def lag_of(self, i: int) -> int:
        if isinstance(self.layer, Conv) and not self.stage.packing:
            after = self.reach(i) - self.layer.pads[0] * self.plan.lanes
            return self.stage.lag - after
        return self.stage.lag - self.stage.delays[min(i, len(self.stage.delays) - 1)]

    def body(self) -> str:
        if isinstance(self.layer, Conv):
            return self.conv(self.layer)
        if isinstance(self.layer, Add):
            return self.add(self.layer)
        assert isinstance(self.layer, Table)
        return self.table(self.layer)

    def put(self, value: str, channel: str, shift: str, relu: bool) -> str:
        slot, flag = self.to.block, str(relu).lower()
        at = f"({channel} / {slot} * F + f) * {slot} + {channel} % {slot}"
        return f"out.data()[{at}] = requantise({value}, {shift}, {flag}, {self.to.low}, {self.to.high});"

    def conv(self, layer: Conv) -> str:
        slot, wide = self.to.block, self.tile.outputs.count * self.to.block
        first = self.tile.outputs.first * slot
        wide = -(-wide // 8) * 8
        weight, bias, shift = self.matrix(layer, first, wide)
        sums = f"long long sum[{wide}] = {{}};"
        if self.tile.cascade_from:
            start = """for (int o = 0; o < WIDE; o += 8) {
      const auto v = readincr_v<16>(before).to_vector<int32>(0);
      for (int i = 0; i < 8; ++i) sum[o + i] = v.get(i);
    }"""
        else:
            start = "for (int o = 0; o < WIDE; ++o) sum[o] = bias[o];"
        put = self.put("sum[o]", "o", "shift[o]", layer.relu)
        end = f"for (int o = 0; o < {self.tile.outputs.count * slot}; ++o) {put}"
        if self.feeds:
            end = """for (int o = 0; o < WIDE; o += 8) {
      auto v = aie::zeros<int32, 16>();
      for (int i = 0; i < 8; ++i) v.set(int32(sum[o + i]), i);
      writeincr(after, aie::from_vector<acc32>(v, 0));
    }"""
        products = []
        for i, port in enumerate(self.ins):
            each = self.channels(port.blocks, port.edge)
            taps, inside = weight[i].shape[1], weight[i].shape[2]
            step = (layer.dilation * self.plan.lanes) if not self.stage.packing else 1
            products.append(
                f"""{{
      static const int16_t w[] = {{{", ".join(map(str, weight[i].reshape(-1)))}}};
      for (int o = 0; o < WIDE; ++o)
        for (int k = 0; k < {taps}; ++k)
          for (int c = 0; c < {inside}; ++c)
            sum[o] += w[(o * {taps} + k) * {inside} + c] * kept{i}[(f + k * {step}) * {each} + c];
    }}"""
            )
        return f"""  constexpr int WIDE = {wide};
  static const long long bias[] = {{{", ".join(map(str, bias))}}};
  static const int shift[] = {{{", ".join(map(str, shift))}}};
  for (int f = 0; f < F; ++f) {{
    {sums}
    {start}
    {" ".join(products)}
    {end}
  }}"""

    def matrix(self, layer: Conv, first: int, wide: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Weights ``(outputs, taps, channels of the port)`` per port; zero outside of the tile's share."""
        outputs, each, taps = layer.weight.shape
        group = outputs // layer.groups
        edge = self.net.edges[layer.inputs[0]]
        whole = np.zeros((outputs, taps, each * layer.groups), np.int64)
        for o in range(outputs):
            g = o // group
            whole[o, :, g * each : (g + 1) * each] = layer.weight[o].T
        if self.stage.packing:  # taps are channels of the window
            whole = whole.reshape(outputs, 1, -1)
        share = self.tile.taps
        if not self.stage.packing:
            keep = np.zeros(taps, bool)
            keep[share.first : share.end] = True
            whole = whole * keep[None, :, None]
        found = []
        for port in self.ins:
            begin, count = port.blocks.first * edge.type.block, self.channels(port.blocks, port.edge)
            part = np.zeros((wide, whole.shape[1], count), np.int64)
            mine = range(self.tile.inputs.first * edge.type.block, self.tile.inputs.end * edge.type.block)
            for c in range(count):
                if begin + c < whole.shape[2] and begin + c in mine:
                    rows = whole[first : first + wide, :, begin + c]
                    part[: len(rows), :, c] = rows
            found.append(part)
        bias = np.zeros(wide, np.int64)
        shift = np.zeros(wide, np.int64)
        have = layer.shift[first : first + wide]
        shift[: len(have)] = have
        if layer.bias is not None:
            bias[: len(have)] = layer.bias[first : first + wide]
        return found, bias, shift

    def add(self, layer: Add) -> str:
        each = self.channels(self.ins[0].blocks, self.ins[0].edge)
        terms = []
        for i, port in enumerate(self.ins):
            off = (self.tile.inputs.first - port.blocks.first) * self.net.edges[port.edge].type.block
            width = self.channels(port.blocks, port.edge)
            terms.append(f"(kept{i}[f * {width} + c + {off}] << {layer.left[i]})")
        assert each
        count = self.tile.outputs.count * self.to.block
        return f"""  for (int f = 0; f < F; ++f)
    for (int c = 0; c < {count}; ++c) {self.put(" + ".join(terms), "c", str(layer.shift), layer.relu)}"""

    def table(self, layer: Table) -> str:
        lookup, half = layer.lookup, 1 << (layer.lookup.bits - 1)
        count = self.tile.outputs.count * self.to.block
        port, slot = self.ins[0], self.net.edges[self.ins[0].edge].type.block
        offset = (self.tile.inputs.first - port.blocks.first) * slot
        at = f"f * {self.channels(port.blocks, port.edge)} + c + {offset}"
        index = f"requantise(kept0[{at}], {lookup.shift}, false, {-half}, {half - 1}) + {half}"
        return f"""  static const int16_t table[] = {{{", ".join(map(str, lookup.entries))}}};
  for (int f = 0; f < F; ++f)
    for (int c = 0; c < {count}; ++c) {self.put(f"table[{index}]", "c", "0", False)}"""
