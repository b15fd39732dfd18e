"""Small networks with random weights, for the kernels of the AI Engine target, and their emulated projects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rubicc.backends.aie import reference
from rubicc.backends.aie.net import Add, Conv, Edge, Gru, Layer, Lookup, Lstm, Net, Table
from rubicc.backends.aie.numbers import Type
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.planner import Options, plan
from rubicc.backends.aie.project import write
from rubicc.backends.aie.session import Emulated


class Random:
    """Layers one after the other; integers spread over their types without saturating often."""

    def __init__(self, channels: int, kind: Type, seed: int = 0) -> None:
        self.made = np.random.default_rng(seed)
        self.edges = {"x": Edge("x", channels, kind, -4)}
        self.layers: list[Layer] = []
        self.last = "x"

    def _edge(self, name: str, channels: int, kind: Type) -> str:
        self.edges[name] = Edge(name, channels, kind, -4)
        return name

    def _push(self, layer: Layer) -> Random:
        self.layers.append(layer)
        self.last = layer.output
        return self

    def weights(self, *shape: int, bits: int = 8) -> np.ndarray:
        most = (1 << (bits - 1)) - 1
        return self.made.integers(-most, most + 1, shape)

    def conv(
        self, name: str, outputs: int, taps: int = 1, groups: int = 1, weight: int = 8, to: Type = Type(8),
        pads: tuple[int, int] | None = None, stride: int = 1, dilation: int = 1, relu: bool = True,
    ) -> Random:  # fmt: skip
        into = self.edges[self.last]
        each, reach = into.channels // groups, dilation * (taps - 1)
        scale = into.type.bits + weight - 2 + 0.5 * np.log2(each * taps) - 1.6
        shift = np.full(-(-outputs // 8), round(scale - (to.bits - to.signed - 2)))
        shift = np.repeat(shift + self.made.integers(-1, 2, len(shift)), 8)[:outputs]
        made = Conv(
            name=name, source=f"m.{name}", inputs=(self.last,), output=self._edge(f"{name}:y", outputs, to),
            weight=self.weights(outputs, each, taps, bits=weight), weight_type=Type(weight), groups=groups,
            bias=self.made.integers(-(1 << 10), 1 << 10, outputs), stride=stride, dilation=dilation, relu=relu,
            pads=(reach // 2, reach - reach // 2) if pads is None else pads, shift=np.maximum(shift, 1),
        )  # fmt: skip
        return self._push(made)

    def add(self, name: str, other: str, to: Type = Type(8)) -> Random:
        output = self._edge(f"{name}:y", self.edges[self.last].channels, to)
        inputs = (self.last, other)
        return self._push(
            Add(name=name, source=f"m.{name}", inputs=inputs, output=output, left=(1, 0), shift=2)
        )

    def lookup(self, bits: int = 10, shift: int = 6, high: int = 32767) -> Lookup:
        entries = np.sort(self.made.integers(-high - 1 if high < 32768 else 0, high + 1, 1 << bits))
        return Lookup(shift=shift, bits=bits, entries=entries)

    def table(self, name: str, to: Type = Type(8)) -> Random:
        output = self._edge(f"{name}:y", self.edges[self.last].channels, to)
        lookup = self.lookup(8, 1, to.high)
        made = Table(name=name, source=name, inputs=(self.last,), output=output, lookup=lookup, function="f")
        return self._push(made)

    def cell(
        self, kind: type[Gru] | type[Lstm], name: str, hidden: int, *, reverse: bool = False,
        operand: Type = Type(8), weight: int = 8, to: Type = Type(8),
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

    def net(self, *outputs: str) -> Net:
        return Net(("x",), outputs or (self.last,), self.edges, tuple(self.layers))

    def feeds(self, sequences: int, length: int) -> dict[str, np.ndarray]:
        about = self.edges["x"]
        shape = (sequences, about.channels, length)
        return {"x": self.made.integers(about.type.low, about.type.high + 1, shape)}


def emulate(
    made: Random, folder: Path, *, sequences: int, length: int, part: str = "vek280", net: Net | None = None
):
    """(plan, what the emulated project gives, what the reference gives), by output edge."""
    net = made.net() if net is None else net
    feeds = made.feeds(sequences, length)
    planned = plan(net, device(part), Options(frames=length))
    write(planned, net, folder / "p", name="kernels", example={k: v[:1] for k, v in feeds.items()})
    found = Emulated(folder / "p", planned, net, folder / "b").run(feeds)
    return planned, found, reference.run(net, feeds)
