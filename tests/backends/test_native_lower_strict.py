"""What lowering takes and what it refuses, operator by operator: nothing is taken for what it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from native_graphs import graph, node, shape_of, signal, weights

from rubicc.backends.cpu_gpu.native import reference
from rubicc.backends.cpu_gpu.native.lower import lower, reasons
from rubicc.backends.cpu_gpu.native.program import Conv
from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph

CONSTANTS: dict[str, np.ndarray] = {
    "w1": weights(6, 1, 5), "w": weights(6, 6, 3), "w1x1": weights(6, 6, 1, seed=1), "b6": weights(6),
    "col": weights(6, 1, seed=2), "row": weights(1, 1, 6, seed=2),
    "two": np.array(2.0), "half": np.array([[[0.5]]]),
    "m": weights(6, 8), "wide": weights(1, 1, 1, 1), "frames": weights(1, 1, 20), "low": np.array(-0.3),
    "gw": weights(1, 15, 6), "gr": weights(1, 15, 5), "gb": weights(1, 30), "lw": weights(1, 20, 6),
    "lr": weights(1, 20, 5), "lb": weights(1, 40), "h0": np.zeros((1, 2, 5)), "h1": np.ones((1, 2, 5)),
    "peep": np.zeros((1, 15)), "lengths": np.full(2, 20, np.int32),
    "bw": weights(2, 15, 6), "br": weights(2, 15, 5),
    "i0": shape_of(0), "i1": shape_of(1), "i2": shape_of(2), "im1": shape_of(-1),
    "far": shape_of(-(2**63) + 1),
    "i01": shape_of(0, 1), "i3": shape_of(3), "i4": shape_of(4), "i6": shape_of(6), "big": shape_of(2**62),
    "s023": shape_of(0, 0, 2, 3), "s06": shape_of(0, 0, 6), "s0m1": shape_of(0, 0, -1),
    "s300": shape_of(3, 0, 2),
    "s32": shape_of(3, 2), "pad4": shape_of(0, 0, 0, 1, 0, 0, 0, 0), "padt": shape_of(1, 0, 0, 0, 0, 0),
    "padc": shape_of(0, 0, 2, 0, 0, 1), "neg": shape_of(0, 0, -1, 0, 0, 0),
    "axes2": shape_of(2), "pads2": shape_of(1, 1),
}  # fmt: skip
STEM = node("Conv", "x w1", "c", pads=[2, 2])  # (N, 6, T)
TURN = node("Transpose", "c", "t", perm=[2, 0, 1])  # (T, N, 6)
Nodes = list[onnx.NodeProto]


def net(*nodes: onnx.NodeProto, **more: Any) -> Graph:
    used = {name for one in nodes for name in one.input}
    return graph(list(nodes), {k: v for k, v in CONSTANTS.items() if k in used}, **more)


def check(made: Graph, frames: int = 20) -> None:
    """Lowered and executed in float64 to the same numbers."""
    assert reasons(made) == ()
    x = signal(frames)
    (want,) = execute(made, {"x": x}, dtype=np.dtype(np.float64)).values()
    got = reference.run(lower(made), x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * max(1, np.abs(want).max()))


def flip(x: str, y: str, axis: str = "i0") -> onnx.NodeProto:
    return node("Slice", f"{x} im1 far {axis} im1", y)


GRU = {"hidden_size": 5, "linear_before_reset": 1}
TAKEN: dict[str, Nodes] = {
    "auto_pad VALID": [node("Conv", "x w1", "y", auto_pad="VALID")],
    "uneven pads, stride, dilation": [
        STEM, node("Conv", "c w b6", "y", pads=[0, 3], strides=[2], dilations=[2])
    ],
    "function on both sides": [STEM, node("Tanh", "c", "a"), node("Relu", "c", "b"), node("Add", "a b", "y")],
    "sum with itself": [STEM, node("Add", "c c", "y")],
    "sum after a function": [
        STEM, node("Conv", "c w", "d", pads=[1, 1]), node("Relu", "d", "e"), node("Add", "c e", "y")
    ],
    "two sums of one value": [
        STEM, node("Conv", "c w", "d", pads=[1, 1]), node("Add", "c d", "e"), node("Relu", "e", "f"),
        node("Conv", "f w", "g", pads=[1, 1]), node("Add", "f g", "h"), node("Add", "h d", "y"),
    ],
    "silu whose gate is read twice": [
        STEM, node("Sigmoid", "c", "s"), node("Mul", "s c", "m_"), node("Add", "m_ s", "y")
    ],
    "gate of another value": [
        STEM, node("Tanh", "c", "t"), node("Sigmoid", "t", "s"), node("Mul", "t s", "y")
    ],
    "numbers": [STEM, node("Mul", "two c", "a"), node("Add", "a half", "b"), node("Clip", "b low", "y")],
    "clip above only": [STEM, node("Clip", "c - two", "y")],
    "gelu": [STEM, node("Gelu", "c", "y")],
    "channel terms": [STEM, node("Add", "c col", "y")],
    "channel factors": [STEM, node("Mul", "col c", "a"), node("Relu", "a", "y")],
    "channel terms of a sum": [STEM, node("Conv", "c w b6", "d", pads=[1, 1]), node("Add", "d col", "y")],
    # A bias that only one reader of the convolution sees.
    "channel terms on one branch": [
        STEM, node("Add", "c col", "a"), node("Relu", "c", "b"), node("Add", "a b", "y")
    ],
    "channel terms behind a view": [
        STEM, TURN, node("Add", "t row", "a"),
        node("Transpose", "a", "u", perm=[1, 2, 0]), node("Add", "u c", "y"),
    ],
    "linear with bias": [STEM, TURN, node("MatMul", "t m", "a"), node("Tanh", "a", "y")],
    "linear, batch first": [STEM, node("Transpose", "c", "t", perm=[0, 2, 1]), node("MatMul", "t m", "a"),
                            node("Transpose", "a", "y", perm=[1, 0, 2])],
    "some channels": [STEM, node("Slice", "c i1 i4 i1 i1", "y")],
    "channels backwards": [STEM, flip("c", "y", "i1")],
    "every second channel": [STEM, node("Slice", "c i0 big i1 i2", "y")],
    "channels padded": [STEM, TURN, node("Pad", "t padc two", "y")],
    "one axis padded": [STEM, TURN, node("Pad", "t pads2 two axes2", "y")],
    "split, padded, joined": [
        STEM, TURN, node("Reshape", "t s0032", "r"),
        node("Pad", "r pad4 two", "p"), node("Reshape", "p s0m1", "y"),
    ],
    "split twice": [
        STEM, TURN, node("Reshape", "t s0032", "r"), node("Reshape", "t s0023", "q"),
        node("Pad", "r pad4 two", "p"),
        node("Reshape", "p s0m1", "a"), node("Pad", "q pad4 two", "o"), node("Reshape", "o s0m1", "b"),
        node("MatMul", "b m8", "d"), node("MatMul", "a m9", "e"), node("Add", "d e", "y"),
    ],
    "split by a computed shape": [
        STEM, TURN, node("Shape", "t", "s"), node("Gather", "s i0", "s0"),
        node("Shape", "t", "n", start=1, end=2),
        node("Concat", "s0 n s32", "to", axis=0), node("Reshape", "t to", "r"),
        node("Reshape", "r s0m1", "y"),
    ],
    "frames by -1": [
        STEM, TURN, node("Shape", "t", "n", start=1, end=2), node("Concat", "im1 n i6", "to", axis=0),
        node("Reshape", "t to", "y"),
    ],
    "axis in and out": [STEM, node("Unsqueeze", "c i2", "u"), node("Squeeze", "u i2", "y")],
    "flipped twice": [STEM, TURN, flip("t", "f"), node("Relu", "f", "r"), flip("r", "y")],
    "gru": [STEM, TURN, node("GRU", "t gw gr gb", "g", **GRU), node("Squeeze", "g i1", "y")],
    "gru, no bias": [STEM, TURN, node("GRU", "t gw gr", "g", **GRU), node("Squeeze", "g i1", "y")],
    "gru, zero state": [STEM, TURN, node("GRU", "t gw gr - - h0", "g", **GRU), node("Squeeze", "g i1", "y")],
    "gru in reverse": [
        STEM, TURN, node("GRU", "t gw gr gb", "g", direction="reverse", **GRU), node("Squeeze", "g i1", "y")
    ],
    "reverse of reversed": [
        STEM, TURN, flip("t", "f"), node("GRU", "f gw gr gb", "g", direction="reverse", **GRU),
        flip("g", "h"), node("Squeeze", "h i1", "y"),
    ],
    "lstm between flips": [
        STEM, TURN, flip("t", "f"), node("LSTM", "f lw lr lb - h0 h0 peep", "g", hidden_size=5),
        node("Squeeze", "g i1", "s"), flip("s", "y"),
    ],
    "softmax over channels first": [STEM, node("LogSoftmax", "c", "y", axis=1)],
}  # fmt: skip
CONSTANTS |= {
    "s0032": shape_of(0, 0, 3, 2), "s0023": shape_of(0, 0, 2, 3), "m8": weights(8, 4), "m9": weights(9, 4),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_taken_and_exact(case: str) -> None:
    for frames in (20, 21):
        check(net(*TAKEN[case]), frames)


REFUSED: dict[str, tuple[Nodes, str]] = {
    "same padding": ([node("Conv", "x w1", "y", auto_pad="SAME_UPPER")], "auto_pad"),
    "computed weights": ([STEM, node("Relu", "w", "v"), node("Conv", "c v", "y")], "no value"),
    "sum over frames": ([STEM, node("Conv", "c w", "d"), node("Add", "c d", "y")], "Add of axes"),
    "sum of unlike frames": (
        [STEM, node("Conv", "c w", "d", strides=[2], pads=[1, 1]),
         node("Conv", "c w", "e", pads=[0, 1], strides=[2]),
         node("Add", "d e", "y")], "frames"
    ),
    "sum with the reversed": ([STEM, flip("c", "f", "i2"), node("Add", "c f", "y")], "Add of axes"),
    "product of values": ([STEM, node("Tanh", "c", "t"), node("Mul", "c t", "y")], "Mul of two"),
    "constant over frames": ([STEM, node("Add", "c frames", "y")], "varies over frames"),
    "constant that adds an axis": ([STEM, node("Mul", "c wide", "y")], "constant of shape"),
    "channel row on frames": ([STEM, node("Add", "c row", "y")], "varies over frames"),
    "softmax over frames": ([STEM, node("LogSoftmax", "c", "y", axis=-1)], "another axis"),
    "gelu by tanh": ([STEM, node("Gelu", "c", "y", approximate="tanh")], "Gelu by tanh"),
    "limits the wrong way": ([STEM, node("Clip", "c two low", "y")], "Clip to [2.0"),
    "convolution over reversed": ([STEM, flip("c", "f", "i2"), node("Conv", "f w", "y")], "reversed"),
    "output reversed": ([STEM, TURN, flip("t", "y")], "reversed"),
    "output of another order": ([STEM, node("Transpose", "c", "y", perm=[1, 0, 2])], "output with axes CNT"),
    "reversal from the second": ([STEM, TURN, node("Slice", "t i2 far i0 im1", "y")], "Slice other than"),
    "reversal short of the first": ([STEM, TURN, node("Slice", "t im1 i0 i0 im1", "y")], "Slice other than"),
    "every second frame": ([STEM, TURN, node("Slice", "t i0 big i0 i2", "y")], "Slice other than"),
    "items reversed": ([STEM, TURN, flip("t", "y", "i1")], "Slice other than"),
    "frames padded": ([STEM, TURN, node("Pad", "t padt", "y")], "Pad of axis T"),
    "negative pads": ([STEM, TURN, node("Pad", "t neg", "y")], "by -1"),
    "reflected": ([STEM, TURN, node("Pad", "t padc", "y", mode="reflect")], "one constant"),
    "channels mixed": (
        [STEM, TURN, node("Reshape", "t s0032", "r"), node("Transpose", "r", "u", perm=[0, 1, 3, 2]),
         node("Reshape", "u s0m1", "y")], "mixes channels"
    ),
    "items joined with channels": ([STEM, TURN, node("Reshape", "t s300", "y")], "Reshape of axes"),
    "shape of another value": (
        [STEM, node("Conv", "c w", "d"), node("Shape", "d", "s"), node("Reshape", "c s", "y")],
        "Reshape of axes",
    ),
    "a shape as a value": ([STEM, node("Shape", "c", "s"), node("Relu", "s", "y")], "a shape"),
    "reset first": ([STEM, TURN, node("GRU", "t gw gr", "y", hidden_size=5)], "linear_before_reset"),
    "both directions": (
        [STEM, TURN, node("GRU", "t bw br", "y", direction="bidirectional", **GRU)], "both directions"
    ),
    "other functions": (
        [STEM, TURN, node("GRU", "t gw gr", "y", activations=["Sigmoid", "Relu"], **GRU)], "other functions"
    ),
    "clipped gates": ([STEM, TURN, node("GRU", "t gw gr", "y", clip=1.0, **GRU)], "with clip"),
    "a state": ([STEM, TURN, node("GRU", "t gw gr - - h1", "y", **GRU)], "initial state"),
    "lengths": ([STEM, TURN, node("GRU", "t gw gr - lengths", "y", **GRU)], "lengths of sequences"),
    "final state": ([STEM, TURN, node("GRU", "t gw gr", "g y", **GRU)], "final state"),
    "batch first": ([STEM, TURN, node("GRU", "t gw gr", "y", layout=1, **GRU)], "batch first"),
    "squeeze of items": ([STEM, TURN, node("Squeeze", "t i1", "y")], "not known to be 1"),
    "unknown": ([STEM, node("Erf", "c", "y")], "operator Erf"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_node(case: str) -> None:
    nodes, says = REFUSED[case]
    found = reasons(net(*nodes))
    assert len(found) == 1, found
    assert says in found[0].what
    if "output" not in case:
        assert found[0].node in {one.name for one in nodes} and found[0].source == f"net.{found[0].node}"
    with pytest.raises(Unsupported, match="RUB-CPU-063"):
        lower(net(*nodes))


def test_every_unknown_operator_is_listed() -> None:
    made = net(STEM, node("Erf", "c", "e"), node("Sign", "e", "s"), node("Relu", "s", "y"))
    assert [reason.what for reason in reasons(made)] == ["operator Erf", "operator Sign"]


def test_interfaces_are_checked() -> None:
    assert "version 12" in reasons(net(STEM, node("Relu", "c", "y"), opset=12))[0].what
    assert "inputs other" in reasons(net(node("Relu", "x", "y"), x=("N", "C", "T")))[0].what
    assert "inputs other" in reasons(net(node("Relu", "x", "y"), dtype=onnx.TensorProto.DOUBLE))[0].what
    assert "not depend" in reasons(net(node("Identity", "w", "y")))[0].what


def test_bias_is_fused_only_where_no_sum_is_rounded() -> None:
    program = lower(net(*TAKEN["channel terms"]))
    assert len(program.steps) == 1
    program = lower(net(*TAKEN["channel terms of a sum"]))
    assert [isinstance(step, Conv) and step.groups for step in program.steps] == [1, 1, 6]


def test_what_the_output_does_not_need_is_left_out() -> None:
    program = lower(net(STEM, node("Conv", "c w", "d"), node("Tanh", "d", "e"), node("Relu", "c", "y")))
    assert len(program.steps) == 1
