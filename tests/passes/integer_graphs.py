"""Float graphs for the tests of integer passes: what basecallers are made of, in every mixture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import strategies as st
from pass_graphs import graph, node

from rubicc.ir.graph import Graph

LENGTH = 40


class Net:
    """Builds a chain of layers with random weights."""

    def __init__(self, seed: int, channels: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.channels = self.inputs = channels
        self.value, self.count = "x", 0

    def add(self, op: str, inputs: str, **attributes: object) -> str:
        """One node; its output becomes the current value."""
        self.count += 1
        self.value = f"v{self.count}"
        self.nodes.append(node(op, inputs, self.value, f"m.{self.count}", **attributes))
        return self.value

    def weight(self, shape: tuple[int, ...], scale: float) -> str:
        name = f"w{len(self.constants)}"
        spread = self.rng.uniform(0.3, 3, (shape[0], *[1] * (len(shape) - 1)))  # channels of unlike size
        self.constants[name] = (self.rng.normal(size=shape) * scale * spread).astype(np.float32)
        return name

    def conv(
        self, outputs: int, taps: int, groups: int = 1, stride: int = 1, dilation: int = 1,
        pads: tuple[int, int] | None = None, bias: bool = True,
    ) -> str:  # fmt: skip
        """Convolution with weights that keep values near 1."""
        each = self.channels // groups
        weight = self.weight((outputs, each, taps), 1 / np.sqrt(each * taps))
        ends = (dilation * (taps - 1) // 2, dilation * (taps - 1) - dilation * (taps - 1) // 2)
        inputs = f"{self.value} {weight}" + (f" {self.weight((outputs,), 0.3)}" if bias else "")
        self.channels = outputs
        return self.add(
            "Conv", inputs, group=groups, strides=[stride], dilations=[dilation], pads=list(pads or ends),
            kernel_shape=[taps],
        )  # fmt: skip

    def residual(self, taps: int, relu: bool) -> str:
        """``x + conv(relu(conv(x)))``."""
        begin = self.value
        self.conv(self.channels, taps)
        self.add("Relu", self.value)
        self.conv(self.channels, 1, bias=False)
        self.add("Add", f"{self.value} {begin}")
        return self.add("Relu", self.value) if relu else self.value

    def swish(self) -> str:
        begin = self.value
        self.add("Sigmoid", begin)
        return self.add("Mul", f"{begin} {self.value}")

    def head(self, outputs: int, *, linear: bool) -> Graph:
        """Scores and a log-softmax, which the host computes."""
        if linear:
            self.add("Transpose", self.value, perm=[2, 0, 1])
            self.add("MatMul", f"{self.value} {self.weight((self.channels, outputs), 0.5)}")
            self.add("Add", f"{self.weight((outputs,), 0.2)} {self.value}")
        else:
            self.conv(outputs, 1)
            self.add("Transpose", self.value, perm=[2, 0, 1])
        self.nodes.append(node("LogSoftmax", self.value, "y", "head.softmax", axis=-1))
        return graph(self.nodes, {"x": ["N", self.inputs, "T"]}, {"y": ["S", "N", outputs]}, self.constants)


def signal(seed: int, channels: int, batch: int = 2, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Inputs ``(N, C, T)``."""
    return {"x": np.random.default_rng(seed).normal(size=(batch, channels, length)).astype(np.float32)}


def small(seed: int = 0) -> Graph:
    """All kinds of stages once: strided, grouped, residual, tanh, swish, linear."""
    net = Net(seed, 3)
    net.conv(16, 5, stride=2)
    net.add("Tanh", net.value)
    net.conv(16, 5, groups=2)
    net.swish()
    net.residual(3, relu=True)
    return net.head(5, linear=True)


WIDTHS = st.sampled_from([(8, 8), (16, 8), (8, 4), (16, 16), (8, 16)])


@st.composite
def nets(draw: st.DrawFn) -> tuple[Graph, int]:
    """A float graph and its input channels."""
    net = Net(draw(st.integers(0, 2**20)), draw(st.sampled_from([1, 3, 8])))
    inputs = net.channels
    kinds = st.sampled_from(["conv", "grouped", "depthwise", "dilated", "residual", "tanh", "swish", "relu"])
    net.conv(8 * draw(st.integers(1, 3)), draw(st.integers(1, 9)), stride=draw(st.integers(1, 3)))
    for kind in draw(st.lists(kinds, max_size=4)):
        if kind == "conv":
            net.conv(draw(st.integers(1, 20)), draw(st.integers(1, 5)), bias=draw(st.booleans()))
        elif kind in ("grouped", "depthwise"):
            even = net.channels - net.channels % 2 or 1
            net.conv(even, 1)
            net.conv(even, 3, groups=even if kind == "depthwise" else max(1, even // 2), pads=(2, 1))
        elif kind == "dilated":
            net.conv(net.channels, 3, dilation=2)
        elif kind == "residual":
            net.residual(3, draw(st.booleans()))
        elif kind == "swish":
            net.swish()
        else:
            net.add({"tanh": "Tanh", "relu": "Relu"}[kind], net.value)
    return net.head(draw(st.integers(2, 9)), linear=draw(st.booleans())), inputs


HIDDEN = 12
TURN = {"start": [-1], "end": [-(2**63) + 1], "axis": [0], "step": [-1]}


class Layers(Net):
    """Recurrent layers behind a convolution."""

    def turn(self) -> None:
        for name, numbers in TURN.items():
            self.constants[name] = np.asarray(numbers, np.int64)
        self.add("Slice", f"{self.value} start end axis step")

    def layer(
        self, kind: str, direction: str = "forward", hidden_bias: bool = True, scale: float = 1.0
    ) -> None:
        gates = {"GRU": 3, "LSTM": 4}[kind]
        weight = self.weight((1, gates * HIDDEN, self.channels), 1 / np.sqrt(self.channels))
        recurrent = self.weight((1, gates * HIDDEN, HIDDEN), scale / np.sqrt(HIDDEN))
        bias = self.weight((1, 2 * gates * HIDDEN), 0.4)
        if not hidden_bias:
            self.constants[bias][:, gates * HIDDEN :] = 0
        options = {"linear_before_reset": 1} if kind == "GRU" else {}
        self.add(
            kind,
            f"{self.value} {weight} {recurrent} {bias}",
            hidden_size=HIDDEN,
            direction=direction,
            **options,
        )
        self.constants["direction"] = np.asarray([1], np.int64)
        self.add("Squeeze", f"{self.value} direction")
        self.channels = HIDDEN

    def scores(self) -> Graph:
        self.add("MatMul", f"{self.value} {self.weight((HIDDEN, 5), 0.7)}")
        self.nodes.append(node("Identity", self.value, "y", "head"))
        return graph(self.nodes, {"x": ["N", self.inputs, "T"]}, {"y": ["S", "N", 5]}, self.constants)


def network(build: Callable[[Layers], None], seed: int = 0) -> Graph:
    net = Layers(seed, 2)
    net.conv(8, 5, stride=2)
    net.add("Tanh", net.value)
    net.add("Transpose", net.value, perm=[2, 0, 1])
    build(net)
    return net.scores()


def alternating(kind: str, seed: int = 0) -> Graph:
    """Backward by turning the sequence round twice, forward, backward by attribute."""

    def build(net: Layers) -> None:
        net.turn()
        net.layer(kind)
        net.turn()
        net.layer(kind)
        net.layer(kind, "reverse", hidden_bias=False)

    return network(build, seed)
