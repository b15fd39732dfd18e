"""Random small networks: whatever is put together, the package computes what the graph says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from coreml_graphs import TARGETS, Build, compiled, normal
from hypothesis import given, settings
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], int]
Shape = tuple[int, int, int]


class Grower:
    """Adds layers to a graph over (batch, channels, time); every choice is drawn."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.shape: Shape = (self.number(1, 2), self.number(1, 6), self.number(4, 20))
        self.b = Build(x=normal(*self.shape, seed=self.number(0, 99)))
        self.y = "x"

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def weights(self, *shape: int) -> np.ndarray:
        return normal(*shape, seed=self.number(0, 99)) / max(1, int(np.prod(shape[1:]))) ** 0.5

    def layer(self) -> None:
        kinds = (
            self.conv, self.depthwise, self.activation, self.residual, self.batch_norm, self.layer_norm,
            self.pool, self.cut, self.pad, self.join, self.mix, self.softmax, self.gate, self.quantise,
            self.turned, self.recur,
        )  # fmt: skip
        kinds[self.number(0, len(kinds) - 1)]()

    def conv(self) -> None:
        n, c, t = self.shape
        kernel, out, stride, dilation = (self.number(1, high) for high in (4, 6, 2, 2))
        before, after = self.number(0, 3), self.number(0, 3)
        made = (t + before + after - dilation * (kernel - 1) - 1) // stride + 1
        if made < 1:
            return
        bias = self.weights(out) if self.number(0, 1) else None
        self.y = self.b(
            "Conv", self.y, self.weights(out, c, kernel), bias, strides=[stride], dilations=[dilation],
            pads=[before, after],
        )  # fmt: skip
        self.shape = (n, out, made)

    def depthwise(self) -> None:
        self.y = self.b("Conv", self.y, self.weights(self.shape[1], 1, 3), group=self.shape[1], pads=[1, 1])

    def activation(self) -> None:
        names = ("Relu", "Sigmoid", "Tanh", "Gelu", "Elu", "Softplus", "HardSwish", "Abs")
        self.y = self.b(names[self.number(0, len(names) - 1)], self.y)

    def residual(self) -> None:
        before = self.y
        self.activation()
        self.y = self.b("Add", before, self.y)

    def batch_norm(self) -> None:
        c = self.shape[1]
        arrays = [self.weights(c) for _ in range(3)]
        self.y = self.b("BatchNormalization", self.y, *arrays, self.weights(c) ** 2 + 0.5)

    def layer_norm(self) -> None:
        axis = self.number(1, 2)
        axes = np.array([axis])
        centred = self.b("Sub", self.y, self.b("ReduceMean", self.y, axes))
        variance = self.b("ReduceMean", self.b("Mul", centred, centred), axes)
        made = self.b("Div", centred, self.b("Sqrt", self.b("Add", variance, np.float32(0.1))))
        if self.number(0, 1):
            along = self.number(1, 2)  # along the other axis it is no scale of a layer norm
            size = self.shape[along]
            made = self.b("Mul", made, self.weights(size).reshape((size, 1) if along == 1 else (size,)))
        self.y = made

    def pool(self) -> None:
        n, c, t = self.shape
        if t < 4:
            return
        self.y = self.b(
            ("MaxPool", "AveragePool")[self.number(0, 1)], self.y, kernel_shape=[3], strides=[2], pads=[1, 1]
        )
        self.shape = (n, c, (t - 1) // 2 + 1)

    def cut(self) -> None:
        n, c, t = self.shape
        step = (-2, -1, 1, 2)[self.number(0, 3)]
        start, end = (self.number(0, t - 1) for _ in range(2))
        size = len(range(start, end, step))
        if size:
            ends = [np.array([k]) for k in (start, end, 2, step)]
            self.y = self.b("Slice", self.y, *ends)
            self.shape = (n, c, size)

    def pad(self) -> None:
        n, c, t = self.shape
        front, back, up = (self.number(0, 2) for _ in range(3))
        self.y = self.b("Pad", self.y, np.array([0, up, front, 0, 0, back]), np.float32(self.number(-1, 1)))
        self.shape = (n, c + up, t + front + back)

    def join(self) -> None:
        n, c, t = self.shape
        axis = self.number(1, 2)
        self.y = self.b("Concat", self.y, self.b("Neg", self.y), axis=axis)
        self.shape = (n, 2 * c, t) if axis == 1 else (n, c, 2 * t)

    def mix(self) -> None:
        n, c, t = self.shape
        out = self.number(1, 5)
        made = self.b("MatMul", self.y, self.weights(t, out))
        self.y = self.b("Add", made, self.weights(out)) if self.number(0, 1) else made
        self.shape = (n, c, out)

    def softmax(self) -> None:
        self.y = self.b(("Softmax", "LogSoftmax")[self.number(0, 1)], self.y, axis=self.number(1, 2))

    def gate(self) -> None:
        self.y = self.b("Mul", self.y, self.b("Sigmoid", self.y))

    def quantise(self) -> None:
        """Scaled so that no value sits between two levels by less than float32 can tell."""
        level = self.b("Round", self.b("Mul", self.y, np.float32(7.3)))
        bits, signed = np.float32(self.number(3, 8)), self.number(0, 1)
        made = self.b(
            "Quant", level, np.float32(1.0), np.float32(0), bits, signed=signed, narrow=self.number(0, 1),
            rounding_mode="ROUND",
        )  # fmt: skip
        self.y = self.b("Mul", made, np.float32(0.125))

    def turned(self) -> None:
        n, c, t = self.shape
        self.y = self.b("Transpose", self.y, perm=[0, 2, 1])
        self.shape = (n, t, c)

    def recur(self) -> None:
        n, c, t = self.shape
        kind, gates = (("LSTM", 4), ("GRU", 3), ("RNN", 1))[self.number(0, 2)]
        direction = ("forward", "reverse", "bidirectional")[self.number(0, 2)]
        both, size = 1 + (direction == "bidirectional"), self.number(1, 3)
        arrays = [self.weights(both, gates * size, k) for k in (c, size)]
        turned = self.b("Transpose", self.y, perm=[2, 0, 1])
        more = {"linear_before_reset": self.number(0, 1)} if kind == "GRU" else {}
        made = self.b(kind, turned, *arrays, hidden_size=size, direction=direction, **more)
        joined = self.b(
            "Reshape", self.b("Transpose", made, perm=[0, 2, 1, 3]), np.array([0, 0, both * size])
        )
        self.y = self.b("Transpose", joined, perm=[1, 2, 0])
        self.shape = (n, both * size, t)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 7), st.sampled_from(TARGETS))
def test_random_networks(data: st.DataObject, layers: int, target: str) -> None:
    grower = Grower(data.draw)
    for _ in range(layers):
        if grower.shape[1] * grower.shape[2] < 400:
            grower.layer()
    if grower.y == "x":
        grower.activation()
    graph = grower.b.graph()
    made = compiled(graph, target=target)
    in_two_steps = any("two steps" in decision.what for decision in made.lowered.decisions)
    assert made.gap(grower.b.feeds) < (1e-4 if in_two_steps else 1e-5)


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 7), st.sampled_from(TARGETS), st.booleans())
def test_random_networks_in_fp16(data: st.DataObject, layers: int, target: str, half_io: bool) -> None:
    """Types fit everywhere, whatever stands beside what; a grid may round a half to the other side."""
    grower = Grower(data.draw)
    for _ in range(layers):
        if grower.shape[1] * grower.shape[2] < 400:
            grower.layer()
    if grower.y == "x":
        grower.activation()
    made = compiled(grower.b.graph(), target=target, precision="fp16", half_io=half_io)
    gap = made.gap(grower.b.feeds, "fp16")
    assert gap < 0.05 or any(node.op_type == "Round" for node in made.graph.ir)


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 6), st.sampled_from(TARGETS))
def test_random_networks_over_free_batch_and_length(data: st.DataObject, layers: int, target: str) -> None:
    grower = Grower(data.draw)
    n, c, t = grower.shape
    kinds = (
        grower.conv, grower.depthwise, grower.residual, grower.batch_norm, grower.pool, grower.softmax,
        grower.gate, grower.recur, grower.pad,
    )  # fmt: skip
    for _ in range(layers):
        kinds[grower.number(0, len(kinds) - 1)]()
    if grower.y == "x":
        grower.activation()
    made = compiled(grower.b.graph(x=("N", c, "T")), target=target, shapes=f"x=1..3x{c}x{t}..60")
    for shape in ((n, c, t), (3, c, t + 7)):
        assert made.gap({"x": normal(*shape)}) < 1e-4
