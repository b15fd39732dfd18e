"""Small networks with random weights, for the kernels of the AI Engine target, and their projects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from rubicc.backends.aie import reference
from rubicc.backends.aie.net import Add, Attention, Conv, Edge, Gru, Layer, Lookup, Lstm, Net, Norm, Table
from rubicc.backends.aie.numbers import Type
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.model import AiePlan
from rubicc.backends.aie.plan.planner import Options, plan
from rubicc.backends.aie.project import write
from rubicc.backends.aie.session import Emulated

INT8, INT16, UINT8 = Type(8), Type(16), Type(8, False)


class Random:
    """Layers one after the other; integers spread over their types without saturating often."""

    def __init__(self, channels: int, kind: Type, seed: int = 0) -> None:
        self.made = np.random.default_rng(seed)
        self.edges = {"x": Edge("x", channels, kind, -4)}
        self.layers: list[Layer] = []
        self.sample = self.feeds(2, 60)["x"]
        self.values = {"x": self.sample}
        self.last = "x"

    def _edge(self, name: str, channels: int, kind: Type) -> str:
        self.edges[name] = Edge(name, channels, kind, -4)
        return name

    def _push(self, layer: Layer) -> Random:
        self.layers.append(layer)
        inputs = [self.values[name] for name in layer.inputs]
        self.sample = reference.evaluate(layer, inputs, self.edges[layer.output].type)
        self.values[layer.output] = self.sample
        self.last = layer.output
        return self

    def weights(self, *shape: int, bits: int = 8) -> np.ndarray:
        most = (1 << (bits - 1)) - 1
        return self.made.integers(-most, most + 1, shape)

    def conv(
        self, name: str, outputs: int, taps: int = 1, groups: int = 1, weight: int = 8, to: Type = INT8,
        pads: tuple[int, int] | None = None, stride: int = 1, dilation: int = 1, relu: bool = True,
    ) -> Random:  # fmt: skip
        into = self.edges[self.last]
        each, reach = into.channels // groups, dilation * (taps - 1)
        weights = self.weights(outputs, each, taps, bits=weight)
        shift = np.ones(outputs, np.int64)
        made = Conv(
            name=name, source=f"m.{name}", inputs=(self.last,), output=self._edge(f"{name}:y", outputs, to),
            weight=weights, weight_type=Type(weight), groups=groups, stride=stride, dilation=dilation,
            bias=self.made.integers(-(1 << 10), 1 << 10, outputs), relu=relu, shift=shift,
            pads=(reach // 2, reach - reach // 2) if pads is None else pads,
        )  # fmt: skip
        sums = reference.evaluate(replace(made, relu=False, shift=0 * shift), [self.sample], Type(32))
        spread = np.log2(np.abs(sums).max((0, 2)) / to.high)
        for first in range(0, outputs, 8):
            block = slice(first, first + 8)
            shift[block] = max(1, int(np.ceil(spread[block].max())) - self.made.integers(0, 2))
        return self._push(made)

    def add(self, name: str, other: str, to: Type = INT8) -> Random:
        output = self._edge(f"{name}:y", self.edges[self.last].channels, to)
        inputs = (self.last, other)
        return self._push(
            Add(name=name, source=f"m.{name}", inputs=inputs, output=output, left=(1, 0), shift=2)
        )

    def lookup(self, bits: int = 10, shift: int = 6, high: int = 32767) -> Lookup:
        entries = np.sort(self.made.integers(-high - 1 if high < 32768 else 0, high + 1, 1 << bits))
        return Lookup(shift=shift, bits=bits, entries=entries)

    def table(self, name: str, to: Type = INT8) -> Random:
        output = self._edge(f"{name}:y", self.edges[self.last].channels, to)
        lookup = self.lookup(8, 1, to.high)
        made = Table(name=name, source=name, inputs=(self.last,), output=output, lookup=lookup, function="f")
        return self._push(made)

    def cell(
        self, kind: type[Gru] | type[Lstm], name: str, hidden: int, *, reverse: bool = False,
        operand: Type = INT8, weight: int = 8, to: Type = INT8,
    ) -> Random:  # fmt: skip
        gates = 3 if kind is Gru else 4
        sigmoid = Lookup(shift=6, bits=10, entries=np.sort(self.made.integers(0, 32768, 1024)))
        extra = {"cell_bits": 12, "tanh_cell": self.lookup(10, 3)} if kind is Lstm else {}
        spread = operand.bits + weight - 2 + 0.5 * np.log2(hidden) - 1.6
        shift = np.full(gates * hidden, max(0, round(spread - 13)))
        made = kind(
            name=name, source=f"m.{name}", inputs=(self.last,), output=self._edge(f"{name}:y", hidden, to),
            recurrent=self.weights(gates * hidden, hidden, bits=weight), recurrent_type=Type(weight),
            bias=self.made.integers(-999, 999, gates * hidden), operand=operand,
            operand_shift=16 - operand.bits, gate_shift=shift, sigmoid=sigmoid, tanh=self.lookup(),
            output_shift=16 - to.bits, reverse=reverse, **extra,
        )  # fmt: skip
        return self._push(made)

    def norm(self, name: str, to: Type = INT8) -> Random:
        about = self.edges[self.last]
        width = about.channels
        made = Norm(
            name=name, source=f"m.{name}", inputs=(self.last,), output=self._edge(f"{name}:y", width, to),
            gain=self.weights(width, bits=13), offset=self.made.integers(-(1 << 20), 1 << 20, width),
            finer=6 if about.type.bits == 8 else 0, floor=3, shift=17 if to.bits == 8 else 9,
        )  # fmt: skip
        return self._push(made)

    def attention(self, name: str, heads: int, to: Type = INT8) -> Random:
        depth = self.edges[self.last].channels // (3 * heads)
        entries = np.rint(255 * np.exp(-np.arange(1024) / 128)).astype(np.int64)
        made = Attention(
            name=name, source=f"m.{name}", inputs=(self.last,),
            output=self._edge(f"{name}:y", heads * depth, to), heads=heads, depth=depth, score_shift=6,
            entries=entries, output_shift=29 if to.bits == 8 else 22,
        )  # fmt: skip
        return self._push(made)

    def net(self, *outputs: str) -> Net:
        return Net(("x",), outputs or (self.last,), self.edges, tuple(self.layers))

    def feeds(self, sequences: int, length: int) -> dict[str, np.ndarray]:
        about = self.edges["x"]
        shape = (sequences, about.channels, length)
        return {"x": self.made.integers(about.type.low, about.type.high + 1, shape)}


def emulate(
    made: Random,
    folder: Path,
    *,
    sequences: int,
    length: int,
    net: Net | None = None,
    objective: str = "tiles",
) -> tuple[AiePlan, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The plan, and what the emulated project and the reference give by output edge."""
    net = made.net() if net is None else net
    feeds = made.feeds(sequences, length * getattr(made.layers[0], "stride", 1))
    planned = plan(net, device("vek280"), Options(frames=length, objective=objective))
    write(planned, net, folder / "p", name="kernels", example={k: v[:1] for k, v in feeds.items()})
    found = Emulated(folder / "p", planned, net, folder / "b").run(feeds)
    return planned, found, reference.run(net, feeds)
