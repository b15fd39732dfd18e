"""Networks for tests of the AI Engine planner: exact shapes, weights that do not matter."""

from __future__ import annotations

import numpy as np

from rubicc.backends.aie.net import Add, Conv, Edge, Gru, Layer, Lookup, Net, Table
from rubicc.backends.aie.numbers import Type

# RUBICON's table of blocks: (name, in, out, repeat, taps, (weight bits, activation bits)).
RUBICALL = (
    ("b10", 208, 280, 2, 75, (16, 16)), ("b11", 280, 280, 1, 31, (8, 8)), ("b14", 280, 296, 2, 31, (8, 8)),
    ("b23", 296, 232, 1, 123, (16, 8)), ("b31", 232, 232, 2, 55, (16, 8)), ("b34", 232, 232, 2, 5, (16, 8)),
    ("b35", 232, 224, 2, 3, (8, 8)), ("b40", 224, 224, 2, 9, (16, 8)), ("b41", 224, 224, 2, 115, (16, 8)),
    ("b43", 224, 224, 2, 55, (16, 8)), ("b44", 224, 144, 2, 25, (16, 8)), ("b51", 144, 144, 2, 9, (16, 8)),
    ("b52", 144, 144, 1, 25, (8, 8)), ("b54", 144, 144, 2, 7, (8, 8)), ("b55", 144, 144, 1, 123, (8, 4)),
)  # fmt: skip
BONITO = (
    ("B1", 344, 424, 2, 115), ("B2", 424, 464, 7, 5), ("B3", 464, 456, 4, 123), ("B4", 456, 440, 9, 9),
    ("B5", 440, 280, 6, 31),
)  # fmt: skip


class Builder:
    """Layers one after the other."""

    def __init__(self, channels: int, bits: int = 8) -> None:
        self.edges = {"x": Edge("x", channels, Type(bits), -4)}
        self.layers: list[Layer] = []
        self.last = "x"

    def _edge(self, name: str, channels: int, bits: int) -> str:
        self.edges[name] = Edge(name, channels, Type(bits), -4)
        return name

    def conv(
        self, name: str, outputs: int, taps: int = 1, groups: int = 1, weight: int = 8, bits: int = 8,
        stride: int = 1, dilation: int = 1, source: str | None = None, pads: tuple[int, int] | None = None,
    ) -> Builder:  # fmt: skip
        into = self.last if source is None else source
        each = self.edges[into].channels // groups
        reach = dilation * (taps - 1)
        made = Conv(
            name=name, source=f"encoder.{name}", inputs=(into,),
            output=self._edge(f"{name}:y", outputs, bits), weight_type=Type(weight), groups=groups,
            weight=np.ones((outputs, each, taps), np.int64),
            stride=stride, dilation=dilation, pads=(reach // 2, reach - reach // 2) if pads is None else pads,
            shift=np.full(outputs, 7), relu=True,
        )  # fmt: skip
        return self._push(made)

    def add(self, name: str, other: str, bits: int = 8) -> Builder:
        channels = self.edges[self.last].channels
        output = self._edge(f"{name}:y", channels, bits)
        made = Add(name=name, source=name, inputs=(self.last, other), output=output, left=(0, 0), shift=1)
        return self._push(made)

    def table(self, name: str, bits: int = 8) -> Builder:
        output = self._edge(f"{name}:y", self.edges[self.last].channels, bits)
        entries = Lookup(shift=0, bits=8, entries=np.arange(-128, 128))
        made = Table(
            name=name, source=name, inputs=(self.last,), output=output, lookup=entries, function="tanh"
        )
        return self._push(made)

    def gru(self, name: str, hidden: int, reverse: bool, bits: int = 8) -> Builder:
        table = Lookup(shift=4, bits=12, entries=np.zeros(4096, np.int64))
        made = Gru(
            name=name, source=name, inputs=(self.last,), output=self._edge(f"{name}:y", hidden, bits),
            recurrent=np.ones((3 * hidden, hidden), np.int64), recurrent_type=Type(8), operand=Type(8),
            operand_shift=8, gate_shift=np.full(3 * hidden, 3), sigmoid=table, tanh=table, output_shift=8,
            reverse=reverse,
        )  # fmt: skip
        return self._push(made)

    def _push(self, layer: Layer) -> Builder:
        self.layers.append(layer)
        self.last = layer.output
        return self

    def net(self) -> Net:
        return Net(("x",), (self.last,), self.edges, tuple(self.layers))


def rubicall(mixed: bool = False, skips: bool = False) -> Net:
    """RUBICALL at full size: 18 blocks, 29 separable repeats."""
    blocks = list(RUBICALL)
    act = [16, *[block[5][1] for block in blocks], 8, 8, 8]  # bits of what each block reads, C1 first
    act = [8 if bits == 4 else bits for bits in act] if mixed else [8] * len(act)
    made = Builder(1, 16 if mixed else 8)
    made.conv("c1", 208, 9, stride=3, weight=16 if mixed else 8, bits=act[1])
    for at, (name, _, outputs, repeat, taps, (weight, _)) in enumerate(blocks):
        weight = weight if mixed else 8
        weight = 4 if mixed and name == "b55" else weight
        before = made.last
        for turn in range(repeat):
            bits = act[at + 2] if turn == repeat - 1 and not skips else act[at + 1]
            channels = made.edges[made.last].channels
            made.conv(f"{name}.{turn}.dw", channels, taps, channels // 8, weight, act[at + 1])
            made.conv(f"{name}.{turn}.pw", outputs, 1, 1, weight, bits)
        if skips:
            main = made.last
            made.conv(f"{name}.skip", outputs, weight=weight, bits=made.edges[main].type.bits, source=before)
            made.add(f"{name}.add", main, act[at + 2])
    four = 4 if mixed else 8
    made.conv("c2.dw", 144, 9, 18, four).conv("c2.pw", 152, 1, 1, four).conv("c3", 48, 9, 1, four)
    return made.conv("head", 5, bits=8).net()


def bonito() -> Net:
    """Bonito_CTC at full size with its residual branches."""
    made = Builder(1)
    made.conv("c1", 344, 9, stride=3)
    for name, _, outputs, repeat, taps in BONITO:
        before = made.last
        for turn in range(repeat):
            channels = made.edges[made.last].channels
            made.conv(f"{name}.{turn}.dw", channels, taps, channels // 8)
            made.conv(f"{name}.{turn}.pw", outputs)
        main = made.last
        made.conv(f"{name}.skip", outputs, source=before).add(f"{name}.add", main)
    made.conv("c2.dw", 280, 67, 35).conv("c2.pw", 384).conv("c3", 48, 15)
    return made.conv("head", 5).net()


def mgru() -> Net:
    """Taiyaki's mGru_flipflop: a strided convolution, five GRUs that alternate, 40 transitions."""
    made = Builder(1)
    made.conv("conv", 96, 19, stride=5, bits=16, pads=(9, 9)).table("tanh")
    for turn in range(5):
        made.conv(f"gru{turn}.in", 288, bits=16).gru(f"gru{turn}", 96, reverse=turn % 2 == 0)
    return made.conv("out", 40, bits=16).table("flipflop").net()


def mlp(sizes: tuple[int, ...] = (128, 128, 64, 16)) -> Net:
    """Linear layers over rows."""
    made = Builder(sizes[0])
    for at, size in enumerate(sizes[1:]):
        made.conv(f"fc{at}", size)
    return made.net()
