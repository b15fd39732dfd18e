"""An ONNX graph as primitive operations, or the reasons why it cannot be.

Every ONNX value is *held*: which operation's value it is, which of its axes are batch (N), channels (C),
frames (T),
directions (D), states and bases (S, B), and whether its frames run backwards. Transposes, squeezes and
reversals
only change how a value is held. What is not recognised for certain is a reason, never skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from rubicc.backends.cpu_gpu.native.operations import (
    AddOp,
    ConvOp,
    GatherOp,
    LogSoftmaxOp,
    Op,
    Parsed,
    QuantOp,
    Reason,
    RecurrentOp,
    UnaryOp,
)
from rubicc.backends.cpu_gpu.native.program import Activation, Function, Quantised
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.passes.rewrite import constant

__all__ = [
    "AddOp", "ConvOp", "GatherOp", "LogSoftmaxOp", "Op", "Parsed", "QuantOp", "Reason", "RecurrentOp",
    "UnaryOp", "parse",
]  # fmt: skip


class _Unknown(Exception):
    """This node is not one the kernels take; the text says what it is."""


@dataclass(frozen=True)
class _Held:
    value: int
    axes: str
    backwards: bool = False
    stored: Quantised | None = None  # integers of a quantiser, before they are scaled back
    shape_of: str = ""  # the ONNX value whose shape this is; ``axes`` then tells which dimensions


@dataclass(frozen=True)
class _Scaled:
    """A constant stored as int8 with a scale per row."""

    integers: np.ndarray
    scale: np.ndarray
    axis: int


def parse(graph: Graph) -> Parsed:
    """Read ``graph``; ``reasons`` of the result is empty when all of it was understood."""
    return _Parser(graph).run()


class _Parser:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.out = Parsed()
        self.held: dict[ir.Value, _Held] = {}
        self.scaled: dict[ir.Value, _Scaled] = {}
        self.folded: dict[ir.Value, np.ndarray] = {}
        self.problems: list[Reason] = []
        self.bases = 0  # of the state axis that a Reshape split off

    def run(self) -> Parsed:
        graph, out = self.graph, self.out
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            what = f"networks with {len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
            return replace(out, reasons=(Reason("", "", what),))
        given, made = graph.inputs[0], graph.outputs[0]
        shape = given.shape
        channels = shape[1] if shape is not None and len(shape) == 3 else None
        if not isinstance(channels, int) or given.dtype != ir.DataType.FLOAT:
            return replace(out, reasons=(Reason("", "", "inputs other than float32 (N, channels, T)"),))
        out.input, out.input_name, out.output_name = self.new(channels), given.name or "", made.name or ""
        self.held[given] = _Held(out.input, "NCT")
        for node in graph.nodes:
            self.node(node)
        end = self.held.get(made)
        if end is None and not self.problems:
            self.problems.append(Reason("", "", "an output that is constant"))
        if end is not None:
            if end.axes not in ("TNC", "NCT") or end.backwards or end.stored is not None:
                self.problems.append(Reason("", "", f"an output with axes {end.axes}"))
            out.output, out.layout = end.value, "TNC" if end.axes == "TNC" else "NCT"
        out.reasons = tuple(self.problems)
        return out

    def new(self, channels: int) -> int:
        self.out.channels.append(channels)
        return len(self.out.channels) - 1

    def node(self, node: ir.Node) -> None:
        known = [value for value in node.inputs if value is not None]
        if any(value not in self.held and not self.is_constant(value) for value in known):
            return  # something before it is not understood, and is a reason already
        try:
            reader = _READERS.get(op_key(node))
            if reader is None:
                raise _Unknown(f"operator {op_key(node)}")
            if len([value for value in node.outputs if self.used(value)]) > 1:
                raise _Unknown(f"several outputs of {op_key(node)}")
            reader(self, node)
        except _Unknown as unknown:
            self.problems.append(Reason(node.name or "", source_of(node), str(unknown)))

    def used(self, value: ir.Value) -> bool:
        return bool(value.uses()) or value.is_graph_output()

    # ---- operands

    def is_constant(self, value: ir.Value | None) -> bool:
        return value in self.scaled or value in self.folded or constant(value) is not None

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """A constant in real units."""
        if value in self.scaled:
            scaled = self.scaled[value]
            shape = [1] * scaled.integers.ndim
            if scaled.scale.size > 1:
                shape[scaled.axis] = -1
            return scaled.integers * scaled.scale.reshape(shape)
        return self.folded[value] if value in self.folded else constant(value)

    def operand(self, node: ir.Node, index: int, axes: str = "") -> _Held:
        value = node.inputs[index] if index < len(node.inputs) else None
        held = None if value is None else self.held.get(value)
        if (
            held is None
            or held.shape_of
            or held.stored is not None
            or (axes and held.axes not in axes.split())
        ):
            found = held.axes if held is not None else "no value"
            raise _Unknown(f"{op_key(node)} on {found}")
        return held

    def weights(self, node: ir.Node, index: int) -> np.ndarray:
        array = self.array(node.inputs[index] if index < len(node.inputs) else None)
        if array is None:
            raise _Unknown(f"{op_key(node)} with weights that are computed")
        return array

    def result(self, node: ir.Node, held: _Held) -> None:
        self.held[node.outputs[0]] = held

    def emit(self, node: ir.Node, op: Op, like: _Held, axes: str = "") -> None:
        self.out.ops.append(op)
        self.result(node, _Held(op.y, axes or like.axes, like.backwards))


def _unary(function: Function) -> Callable[[_Parser, ir.Node], None]:
    def read(p: _Parser, node: ir.Node) -> None:
        _function(p, node, p.operand(node, 0), Activation(function))

    return read


def _function(p: _Parser, node: ir.Node, x: _Held, activation: Activation) -> None:
    y = p.new(p.out.channels[x.value])
    p.emit(node, UnaryOp(x.value, y, activation, source_of(node)), x)


def _clip(p: _Parser, node: ir.Node) -> None:
    limits = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[index] if index < len(node.inputs) else None
        array = p.array(value) if value is not None else np.array(default)
        if array is None or array.size != 1:
            raise _Unknown("Clip with limits that are computed")
        limits.append(float(array.reshape(())))
    _function(p, node, p.operand(node, 0), Activation("clip", *limits))


def _gelu(p: _Parser, node: ir.Node) -> None:
    if _text(node, "approximate", "none") != "none":
        raise _Unknown("Gelu by tanh")
    _function(p, node, p.operand(node, 0), Activation("gelu"))


def _mul(p: _Parser, node: ir.Node) -> None:
    """SiLU, or a factor for all channels."""
    for this, other in ((0, 1), (1, 0)):
        array = p.array(node.inputs[other])
        if array is not None:
            if array.size != 1:
                raise _Unknown("Mul by several constants")
            _function(p, node, p.operand(node, this), Activation("affine", float(array.reshape(())), 0.0))
            return
    for this, other in ((0, 1), (1, 0)):
        x, s = p.operand(node, this), p.operand(node, other)
        made = next((op for op in p.out.ops if op.y == s.value), None)
        if (
            isinstance(made, UnaryOp) and made.activation == Activation("sigmoid")
            and made.x == x.value and (x.axes, x.backwards) == (s.axes, s.backwards)
        ):  # fmt: skip
            value = node.inputs[other]
            if value is not None and len(value.uses()) == 1 and not value.is_graph_output():
                p.out.ops.remove(made)
            _function(p, node, x, Activation("silu"))
            return
    raise _Unknown("Mul of two computed values")


def _add(p: _Parser, node: ir.Node) -> None:
    """A sum of values, a bias, or a constant for all channels."""
    for this, other in ((0, 1), (1, 0)):
        array = p.array(node.inputs[other])
        if array is None:
            continue
        x = p.operand(node, this)
        channels = p.out.channels[x.value]
        if array.size == 1:
            _function(p, node, x, Activation("affine", 1.0, float(array.reshape(()))))
            return
        place = x.axes.find("C")
        shape = (1,) * (len(x.axes) - array.ndim) + array.shape
        made = p.out.ops[-1] if p.out.ops else None
        last = node.inputs[this]
        if (
            isinstance(made, ConvOp) and made.y == x.value and last is not None and len(last.uses()) == 1
            and place >= 0 and len(shape) == len(x.axes) and shape[place] == channels == array.size
        ):  # fmt: skip
            bias = (made.bias + array.reshape(-1)).astype(made.bias.dtype)
            p.out.ops[-1] = replace(made, bias=bias)
            p.result(node, x)
            return
        raise _Unknown("Add of constants that are no bias")
    a, b = p.operand(node, 0), p.operand(node, 1)
    if (a.axes, a.backwards) != (b.axes, b.backwards) or len({p.out.channels[v.value] for v in (a, b)}) > 1:
        raise _Unknown(f"Add of {a.axes} and {b.axes}")
    y = p.new(p.out.channels[a.value])
    p.emit(node, AddOp(a.value, b.value, y, source_of(node)), a)


def _conv(p: _Parser, node: ir.Node) -> None:
    x = p.operand(node, 0, "NCT")
    source = node.inputs[1]
    scaled = p.scaled.get(source) if source is not None else None
    weight = p.weights(node, 1) if scaled is None else scaled.integers
    if scaled is not None and scaled.axis != 0 and scaled.scale.size > 1:
        raise _Unknown("Conv with weight scales along another axis than its outputs")
    if x.backwards or weight.ndim != 3 or _text(node, "auto_pad", "NOTSET") != "NOTSET":
        raise _Unknown("Conv of another form than 1-D with explicit padding")
    outputs = weight.shape[0]
    bias = p.weights(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(outputs)
    scale = None if scaled is None else np.broadcast_to(scaled.scale.reshape(-1), (outputs,))
    before, after = _ints(node, "pads", (0, 0))
    op = ConvOp(
        x.value, p.new(outputs), weight, np.asarray(bias, np.float32), scale,
        _ints(node, "strides", (1,))[0], _ints(node, "dilations", (1,))[0], _int(node, "group", 1),
        (before, after), source_of(node),
    )  # fmt: skip
    p.emit(node, op, x)


def _matmul(p: _Parser, node: ir.Node) -> None:
    x = p.operand(node, 0, "TNC NTC")
    scaled = p.scaled.get(node.inputs[1]) if node.inputs[1] is not None else None
    weight = p.weights(node, 1) if scaled is None else scaled.integers
    if weight.ndim != 2 or (scaled is not None and scaled.axis != 1 and scaled.scale.size > 1):
        raise _Unknown("MatMul of another form than channels by a matrix")
    outputs = weight.shape[1]
    scale = None if scaled is None else np.broadcast_to(scaled.scale.reshape(-1), (outputs,))
    op = ConvOp(
        x.value, p.new(outputs), weight.T[:, :, None], np.zeros(outputs, np.float32), scale,
        source=source_of(node),
    )  # fmt: skip
    p.emit(node, op, x)


def _log_softmax(p: _Parser, node: ir.Node) -> None:
    x = p.operand(node, 0)
    if x.axes[_int(node, "axis", -1)] != "C":
        raise _Unknown("LogSoftmax over another axis than channels")
    op = LogSoftmaxOp(x.value, p.new(p.out.channels[x.value]), source_of(node))
    p.emit(node, op, x)


def _transpose(p: _Parser, node: ir.Node) -> None:
    x = p.operand(node, 0)
    perm = _ints(node, "perm", tuple(reversed(range(len(x.axes)))))
    p.result(node, replace(x, axes="".join(x.axes[axis] for axis in perm)))


def _identity(p: _Parser, node: ir.Node) -> None:
    value = node.inputs[0]
    if value in p.held:
        p.result(node, p.held[value])
    else:
        p.folded[node.outputs[0]] = p.weights(node, 0)


def _squeeze(p: _Parser, node: ir.Node) -> None:
    x = p.operand(node, 0)
    axes = p.array(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or [x.axes[int(axis)] for axis in np.atleast_1d(axes)] != ["D"]:
        raise _Unknown("Squeeze of another axis than the direction")
    p.result(node, replace(x, axes=x.axes.replace("D", "")))


def _slice(p: _Parser, node: ir.Node) -> None:
    """A reversal of time, or the leading dimensions of a shape."""
    starts, ends, axes, steps = (_vector(p, node, index) for index in (1, 2, 3, 4))
    held = p.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    if held is not None and held.shape_of:
        if (starts, axes or [0], steps or [1]) != ([0], [0], [1]) or len(ends) != 1:
            raise _Unknown("Slice of a shape that takes other than leading dimensions")
        p.result(node, replace(held, axes=held.axes[: ends[0]]))
        return
    x = p.operand(node, 0)
    whole = len(starts) == len(ends) == len(axes) == len(steps) == 1
    if not whole or steps != [-1] or starts != [-1] or ends[0] > -(2**31) or x.axes[axes[0]] != "T":
        raise _Unknown("Slice other than a reversal of time")
    p.result(node, replace(x, backwards=not x.backwards))


def _recurrent(cell: str) -> Callable[[_Parser, ir.Node], None]:
    gates = 3 if cell == "gru" else 4

    def read(p: _Parser, node: ir.Node) -> None:
        x = p.operand(node, 0, "TNC")
        direction = _text(node, "direction", "forward")
        plain = direction in ("forward", "reverse") and _int(node, "layout", 0) == 0
        plain = plain and not any(name in node.attributes for name in ("activations", "clip", "input_forget"))
        if cell == "gru":
            plain = plain and _int(node, "linear_before_reset", 0) == 1
        more = [value for value in node.inputs[4:] if value is not None]
        states = [p.array(value) for value in more]
        plain = plain and all(state is not None and not state.any() for state in states)
        if not plain or p.used(node.outputs[0]) is False:
            raise _Unknown(f"{node.op_type} of another form than one direction from a zero state")
        w, r = p.weights(node, 1)[0], p.weights(node, 2)[0]
        hidden = r.shape[1]
        if w.shape[0] != gates * hidden:
            raise _Unknown(f"{node.op_type} with {w.shape[0]} rows for {hidden} units")
        given = len(node.inputs) > 3 and node.inputs[3] is not None
        bias = p.weights(node, 3)[0] if given else np.zeros(2 * gates * hidden)
        by_input, by_state = np.split(np.asarray(bias, np.float32), 2)
        op = RecurrentOp(
            x.value, p.new(hidden), "gru" if cell == "gru" else "lstm", w, r,
            by_input, by_state, x.backwards != (direction == "reverse"), source_of(node),
        )  # fmt: skip
        p.emit(node, op, x, "TDNC")

    return read


def _quantize(p: _Parser, node: ir.Node) -> None:
    x = p.operand(node, 0)
    quant = _scale(p, node, np.uint8)
    op = QuantOp(x.value, p.new(p.out.channels[x.value]), quant)
    p.out.ops.append(op)
    p.result(node, replace(x, value=op.y, stored=quant))


def _dequantize(p: _Parser, node: ir.Node) -> None:
    value = node.inputs[0]
    held = p.held.get(value) if value is not None else None
    if held is not None:
        if held.stored is None or held.stored != _scale(p, node, np.uint8):
            raise _Unknown("DequantizeLinear with another scale than its QuantizeLinear")
        p.result(node, replace(held, stored=None))
        return
    integers, scale = p.weights(node, 0), p.weights(node, 1)
    zero = p.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    if zero is None or zero.any() or _int(node, "block_size", 0):
        raise _Unknown("DequantizeLinear of weights with a zero point or blocks")
    axis = _int(node, "axis", 1) % max(1, integers.ndim)
    if integers.dtype == np.int8:
        p.scaled[node.outputs[0]] = _Scaled(integers, np.asarray(scale, np.float64).reshape(-1), axis)
    else:
        shape = [-1 if i == axis and scale.size > 1 else 1 for i in range(integers.ndim)]
        p.folded[node.outputs[0]] = integers * np.asarray(scale, np.float64).reshape(shape)


def _scale(p: _Parser, node: ir.Node, dtype: type) -> Quantised:
    scale, zero = p.weights(node, 1), p.weights(node, 2) if len(node.inputs) > 2 else None
    if scale.size != 1 or zero is None or zero.size != 1 or zero.dtype != dtype:
        raise _Unknown(f"{node.op_type} other than to unsigned 8 bit with one scale")
    return Quantised(float(scale.reshape(())), int(zero.reshape(())))


def _shape(p: _Parser, node: ir.Node) -> None:
    x = p.operand(node, 0)
    if "start" in node.attributes or "end" in node.attributes:
        raise _Unknown("Shape of some dimensions")
    p.result(node, replace(x, shape_of=str(id(node.inputs[0]))))


def _concat(p: _Parser, node: ir.Node) -> None:
    """A shape: leading dimensions of a value, then numbers."""
    first = p.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    rest = [p.array(value) for value in node.inputs[1:]]
    if first is None or not first.shape_of or any(array is None for array in rest):
        raise _Unknown("Concat other than of a shape")
    numbers = [int(n) for array in rest if array is not None for n in np.atleast_1d(array)]
    p.result(node, replace(first, shape_of=f"{first.shape_of} {' '.join(map(str, numbers))}"))


def _reshape(p: _Parser, node: ir.Node) -> None:
    """Channels split into states x bases, and joined again."""
    x = p.operand(node, 0, "TNC TNSB")
    shape = p.held.get(node.inputs[1]) if node.inputs[1] is not None else None
    if shape is None or not shape.shape_of or shape.axes != "TN" or _int(node, "allowzero", 0):
        raise _Unknown("Reshape to a shape that is not kept from its input")
    owner, *numbers = shape.shape_of.split()
    sizes = [int(n) for n in numbers]
    channels = p.out.channels[x.value]
    if owner != str(id(node.inputs[0])):
        raise _Unknown("Reshape to the shape of another value")
    if x.axes == "TNSB" and sizes in ([-1], [channels]):
        p.result(node, replace(x, axes="TNC"))
    elif x.axes == "TNC" and len(sizes) == 2 and sizes[1] > 0 and channels % sizes[1] == 0 and (
        sizes[0] in (-1, channels // sizes[1])
    ):  # fmt: skip
        p.bases = sizes[1]
        p.result(node, replace(x, axes="TNSB"))
    else:
        raise _Unknown(f"Reshape of {x.axes} to {sizes}")


def _pad(p: _Parser, node: ir.Node) -> None:
    """Constants before the bases of every state."""
    x = p.operand(node, 0, "TNSB")
    pads = _vector(p, node, 1)
    fill = p.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    axes = len(node.inputs) > 3 and node.inputs[3] is not None
    if (
        len(pads) != 8
        or pads[:3] + pads[4:7] != [0] * 6
        or axes
        or _text(node, "mode", "constant") != "constant"
    ):
        raise _Unknown("Pad other than of bases")
    if fill is None or fill.size != 1 or min(pads) < 0:
        raise _Unknown("Pad with a computed constant")
    channels = p.out.channels[x.value]
    bases = np.arange(channels).reshape(-1, p.bases)
    index = np.pad(bases, ((0, 0), (pads[3], pads[7])), constant_values=-1).reshape(-1)
    op = GatherOp(x.value, p.new(index.size), index, float(fill.reshape(())), source_of(node))
    p.emit(node, op, x)


def _vector(p: _Parser, node: ir.Node, index: int) -> list[int]:
    value = node.inputs[index] if index < len(node.inputs) else None
    array = p.array(value) if value is not None else None
    if value is not None and array is None:
        raise _Unknown(f"{node.op_type} by computed numbers")
    return [] if array is None else [int(n) for n in np.atleast_1d(array)]


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default


_READERS: dict[str, Callable[[_Parser, ir.Node], None]] = {
    "Conv": _conv, "MatMul": _matmul, "Add": _add, "Mul": _mul, "Clip": _clip, "Gelu": _gelu,
    "Relu": _unary("relu"), "Sigmoid": _unary("sigmoid"), "Tanh": _unary("tanh"), "Swish": _unary("silu"),
    "LogSoftmax": _log_softmax, "Transpose": _transpose, "Identity": _identity, "Squeeze": _squeeze,
    "Slice": _slice, "GRU": _recurrent("gru"), "LSTM": _recurrent("lstm"),
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize,
    "Shape": _shape, "Concat": _concat, "Reshape": _reshape, "Pad": _pad,
}  # fmt: skip
