"""Random networks of everything that couples channels; weights are small integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pass_graphs import graph, node

from rubicc.ir.graph import Graph

LENGTH = 6
SIGNED = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
BLOCKS: dict[str, Callable[[Net], None]] = {}


def block(function: Callable[[Net], None]) -> Callable[[Net], None]:
    BLOCKS[function.__name__] = function
    return function


class Net:
    """Grows a chain of blocks over (N, channels, LENGTH)."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.value, self.channels, self.count = "x", 4, 0
        self.used: list[str] = []

    def ints(self, *shape: int, low: int = -2, high: int = 3) -> str:
        """A new initializer of small integers."""
        self.count += 1
        self.constants[f"c{self.count}"] = self.rng.integers(low, high, shape).astype(np.float32)
        return f"c{self.count}"

    def given(self, array: Any) -> str:
        """A new initializer."""
        self.count += 1
        self.constants[f"c{self.count}"] = np.asarray(array)
        return f"c{self.count}"

    def emit(self, op: str, inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node; its outputs' names."""
        self.count += 1
        names = " ".join(f"v{self.count}_{k}" for k in range(outputs))
        self.nodes.append(node(op, inputs, names, **attributes))
        return names

    def then(self, op: str, *others: str, **attributes: Any) -> None:
        """A node on the value at hand."""
        self.value = self.emit(op, " ".join([self.value, *others]), **attributes)

    def conv(self, cout: int, group: int = 1, kernel: int = 3, bias: bool = True) -> None:
        others = [self.ints(cout, self.channels // group, kernel)] + ([self.ints(cout)] if bias else [])
        self.then("Conv", *others, group=group, pads=[kernel // 2, kernel // 2])
        self.channels = cout

    def grow(self, *names: str) -> Net:
        for name in names:
            self.used.append(name)
            BLOCKS[name](self)
        return self

    def graph(self) -> Graph:
        """The network with a dense head."""
        self.conv(3, kernel=1)
        self.nodes[-1].output[0] = "y"
        return graph(self.nodes, {"x": ("N", 4, LENGTH)}, {"y": ("N", 3, LENGTH)}, self.constants)


def random_net(seed: int) -> Net:
    """Two to six blocks after a convolution."""
    net = Net(seed)
    count = int(net.rng.integers(2, 7))
    return net.grow("dense", *net.rng.choice(sorted(BLOCKS), count))


@block
def dense(net: Net) -> None:
    net.conv(int(net.rng.choice([4, 6, 8, 12])), bias=bool(net.rng.integers(2)))


@block
def grouped(net: Net) -> None:
    group = int(net.rng.choice([g for g in (2, 3, 4) if net.channels % g == 0] or [1]))
    net.conv(net.channels if net.rng.integers(2) else 2 * group, group, bias=bool(net.rng.integers(2)))


@block
def depthwise(net: Net) -> None:
    net.conv(net.channels * int(net.rng.integers(1, 3)), net.channels)


@block
def transposed(net: Net) -> None:
    group = 2 if net.channels % 2 == 0 else 1
    weight, bias = net.ints(net.channels, 3, 3), net.ints(3 * group)
    net.then("ConvTranspose", weight, bias, group=group, pads=[1, 1])
    net.channels = 3 * group


@block
def norm(net: Net) -> None:
    names = [net.ints(net.channels), net.ints(net.channels), net.ints(net.channels)]
    net.then("BatchNormalization", *names, net.ints(net.channels, low=1, high=4))


@block
def group_norm(net: Net) -> None:
    group = 2 if net.channels % 2 == 0 else 1
    shape = net.given([0, group, -1])
    net.then("Reshape", shape)
    net.then("InstanceNormalization", net.ints(group), net.ints(group))
    net.then("Reshape", net.given([0, net.channels, -1]))


@block
def activation(net: Net) -> None:
    net.then(str(net.rng.choice(["Relu", "Sigmoid", "Tanh", "Gelu", "Neg"])))


@block
def slopes(net: Net) -> None:
    net.then("PRelu", net.ints(net.channels, 1))


@block
def quantised(net: Net) -> None:
    scale = net.given(2.0 ** net.rng.integers(-2, 1, (1, net.channels, 1)))
    zero, bits = net.given(np.float32(0)), net.given(np.float32(6))
    net.then("Quant", scale, zero, bits, **SIGNED)


@block
def quantised_weights(net: Net) -> None:
    # Every channel has another scale, or moved ones would not be noticed.
    scale = net.given(2.0 ** (net.rng.permutation(6) - 3.0).reshape(6, 1, 1))
    weight = net.ints(6, net.channels, 3)
    zero, bits = net.given(np.float32(0)), net.given(np.float32(2))
    rounded = net.emit("Quant", f"{weight} {scale} {zero} {bits}", **SIGNED)
    net.then("Conv", rounded, pads=[1, 1])
    net.channels = 6


@block
def residual(net: Net) -> None:
    kept = net.value
    net.conv(net.channels, kernel=1)
    net.value = net.emit(str(net.rng.choice(["Add", "Mul", "Sub", "Max"])), f"{kept} {net.value}")


@block
def grouped_residual(net: Net) -> None:
    if net.channels % 2:
        return
    kept, channels = net.value, net.channels
    net.conv(channels, 2)
    first, net.value = net.value, kept
    net.conv(channels, 2)
    net.value = net.emit("Add", f"{first} {net.value}")


@block
def joined(net: Net) -> None:
    start, channels = net.value, net.channels
    net.conv(4)
    first, net.value, net.channels = net.value, start, channels
    net.conv(6, kernel=1)
    parts = [first, net.value, start][: int(net.rng.integers(2, 4))]
    net.value = net.emit("Concat", " ".join(parts), axis=1)
    net.channels = 10 + (channels if len(parts) == 3 else 0)


@block
def split(net: Net) -> None:
    cut = int(net.rng.integers(1, net.channels))
    sizes = net.given([cut, net.channels - cut])
    first, second = net.emit("Split", f"{net.value} {sizes}", 2, axis=1).split()
    net.value = net.emit("Concat", f"{second} {net.emit('Relu', first)}", axis=1)


@block
def halves(net: Net) -> None:
    """A gated linear unit."""
    if net.channels % 2:
        return
    half = net.channels // 2
    parts = []
    for begin in (0, half):
        names = [net.given([n]) for n in (begin, begin + half, 1, 1)]
        parts.append(net.emit("Slice", " ".join([net.value, *names])))
    net.value = net.emit("Mul", f"{parts[0]} {net.emit('Sigmoid', parts[1])}")
    net.channels = half


@block
def reordered(net: Net) -> None:
    net.then("Gather", net.given(net.rng.permutation(net.channels)), axis=1)


@block
def shuffled(net: Net) -> None:
    """Channels of two groups are dealt out in turns."""
    if net.channels % 2:
        return
    net.then("Reshape", net.given([0, 2, net.channels // 2, LENGTH]))
    net.then("Transpose", perm=[0, 2, 1, 3])
    net.then("Reshape", net.given([0, net.channels, LENGTH]))


@block
def excited(net: Net) -> None:
    """Squeeze and excitation."""
    start, channels = net.value, net.channels
    net.then("GlobalAveragePool")
    net.conv(2, kernel=1)
    net.then("Relu")
    net.conv(channels, kernel=1)
    net.value = net.emit("Mul", f"{start} {net.emit('Sigmoid', net.value)}")


def _recur(net: Net, op: str, gates: int) -> None:
    hidden, both = int(net.rng.integers(2, 5)), bool(net.rng.integers(2))
    directions = 2 if both else 1
    direction = "bidirectional" if both else str(net.rng.choice(["forward", "reverse"]))
    net.then("Transpose", perm=[2, 0, 1])
    rows = gates * hidden
    names = [
        net.ints(directions, rows, net.channels, low=-1, high=2),
        net.ints(directions, rows, hidden, low=-1, high=2),
    ]
    if net.rng.integers(2):
        names.append(net.ints(directions, 2 * gates * hidden))
    more = {"linear_before_reset": int(net.rng.integers(2))} if op == "GRU" else {}
    if op == "LSTM" and net.rng.integers(2) and len(names) == 3:
        names += ["-", "-", "-", net.ints(directions, 3 * hidden)]
    net.then(op, *names, hidden_size=hidden, direction=direction, **more)
    net.then("Transpose", perm=[2, 1, 3, 0])
    net.then("Reshape", net.given([0, directions * hidden, LENGTH]))
    net.channels = directions * hidden


@block
def gru(net: Net) -> None:
    _recur(net, "GRU", 3)


@block
def lstm(net: Net) -> None:
    _recur(net, "LSTM", 4)


@block
def rnn(net: Net) -> None:
    _recur(net, "RNN", 1)


@block
def attention(net: Net) -> None:
    """Two heads of three features, over positions; sometimes one fused projection."""
    heads, width = 2, 3
    inner = heads * width
    net.then("Transpose", perm=[0, 2, 1])
    start, operands = net.value, []
    if net.rng.integers(2):
        fused = net.emit("MatMul", f"{start} {net.ints(net.channels, 3 * inner)}")
        fused = net.emit("Add", f"{fused} {net.ints(3 * inner)}")
        cut = net.emit("Reshape", f"{fused} {net.given([0, 0, 3, heads, width])}")
        moved = net.emit("Transpose", cut, perm=[2, 0, 3, 1, 4])
        operands = [net.emit("Gather", f"{moved} {net.given(np.int64(k))}", axis=0) for k in range(3)]
    else:
        for _ in range(3):
            made = net.emit("MatMul", f"{start} {net.ints(net.channels, inner)}")
            cut = net.emit("Reshape", f"{made} {net.given([0, LENGTH, heads, -1])}")
            operands.append(net.emit("Transpose", cut, perm=[0, 2, 1, 3]))
    query, key, value = operands
    scores = net.emit("MatMul", f"{query} {net.emit('Transpose', key, perm=[0, 1, 3, 2])}")
    context = net.emit("MatMul", f"{net.emit('Softmax', scores, axis=-1)} {value}")
    back = net.emit("Transpose", context, perm=[0, 2, 1, 3])
    flat = net.emit("Reshape", f"{back} {net.given([0, 0, inner])}")
    out = net.emit("MatMul", f"{flat} {net.ints(inner, net.channels)}")
    net.value = net.emit("Add", f"{out} {start}")
    net.then("Transpose", perm=[0, 2, 1])


@block
def feed_forward(net: Net) -> None:
    net.then("Transpose", perm=[0, 2, 1])
    start = net.value
    scale, shift = net.ints(net.channels), net.ints(net.channels)
    net.then("LayerNormalization", scale, shift, axis=-1)
    net.then("MatMul", net.ints(net.channels, 8))
    net.then("Add", net.ints(8))
    net.then("Gelu")
    net.then("MatMul", net.ints(8, net.channels))
    net.value = net.emit("Add", f"{net.value} {start}")
    net.then("Transpose", perm=[0, 2, 1])
