"""Nodes with weights, and quantisers: strict about every attribute and shape."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from rubicc.backends.cpu_gpu.native.operations import ConvOp, LogSoftmaxOp, QuantOp, RecurrentOp
from rubicc.backends.cpu_gpu.native.program import Quantised
from rubicc.backends.cpu_gpu.native.reader import (
    Held,
    Read,
    Reader,
    Scaled,
    Unknown,
    integer,
    integers,
    only_attributes,
    text,
)
from rubicc.ir.graph import op_key, source_of

MOST_PRODUCTS = (2**31 - 1) // (255 * 128)  # of a byte and an int8 that an int32 surely holds the sum of


def conv(p: Reader, node: ir.Node) -> None:
    """1-D convolution with explicit zero padding."""
    only_attributes(node, "auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    x = p.ordered(node, 0, "NCT")
    weight, scale = _weight(p, node, axis=0)
    padded = text(node, "auto_pad", "NOTSET")
    if padded not in ("NOTSET", "VALID") or (padded == "VALID" and "pads" in node.attributes):
        raise Unknown("Conv with auto_pad, not explicit padding")
    if x.backwards or weight.ndim != 3:
        raise Unknown("Conv over reversed frames" if x.backwards else "Conv of other than one dimension")
    outputs, inputs, taps = weight.shape
    group = integer(node, "group", 1)
    (stride,), (dilation,) = integers(node, "strides", (1,)), integers(node, "dilations", (1,))
    before, after = integers(node, "pads", (0, 0))
    if integers(node, "kernel_shape", (taps,)) != (taps,) or min(before, after) < 0:
        raise Unknown(f"Conv with {taps} taps, kernel_shape and pads that do not fit")
    if inputs * group != p.out.channels[x.value] or outputs % group:
        raise Unknown(f"Conv with weights {weight.shape} in {group} groups")
    span = dilation * (taps - 1) + 1
    frames = p.out.frames[x.value].after(before + after - span, stride)
    y = p.new(outputs, frames)
    op = ConvOp(
        x.value, y, weight, _bias(p, node, outputs), scale, stride, dilation, group, (before, after),
        source_of(node),
    )  # fmt: skip
    p.emit(node, op, Held(y, ("N", outputs, "T")))


def matmul(p: Reader, node: ir.Node) -> None:
    """Channels by a constant matrix: a convolution with one tap."""
    x = p.ordered(node, 0, "TNC", "NTC")
    weight, scale = _weight(p, node, axis=1)
    if weight.ndim != 2 or weight.shape[0] != p.out.channels[x.value]:
        raise Unknown(f"MatMul with a matrix of shape {list(weight.shape)}")
    outputs = weight.shape[1]
    y = p.new(outputs, p.out.frames[x.value])
    rows = np.ascontiguousarray(weight.T)[:, :, None]
    op = ConvOp(x.value, y, rows, np.zeros(outputs, np.float32), scale, source=source_of(node))
    p.emit(node, op, Held(y, (*x.axes[:2], outputs), x.backwards))


def _weight(p: Reader, node: ir.Node, axis: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Float32, or int8 with a scale per output (along ``axis``)."""
    value = node.inputs[1]
    scaled = p.scaled.get(value) if value is not None else None
    if scaled is None or (scaled.axis != axis and scaled.scale.size > 1):
        weight = p.constant(node, 1)
        if weight.dtype != np.float32:
            raise Unknown(f"{op_key(node)} with weights in {weight.dtype}")
        return weight, None
    outputs = scaled.integers.shape[axis]
    if scaled.integers.size // outputs > MOST_PRODUCTS:
        raise Unknown(f"{op_key(node)} with int8 sums that an int32 does not hold")
    return scaled.integers, np.broadcast_to(scaled.scale.astype(np.float32).reshape(-1), (outputs,))


def _bias(p: Reader, node: ir.Node, outputs: int) -> np.ndarray:
    bias = p.constant(node, 2, np.zeros(outputs, np.float32))
    if bias.shape != (outputs,):
        raise Unknown(f"{op_key(node)} with a bias of shape {list(bias.shape)}")
    return bias.astype(np.float32)


def log_softmax(p: Reader, node: ir.Node) -> None:
    """Over channels."""
    only_attributes(node, "axis")
    x = p.operand(node)
    if integer(node, "axis", -1) % len(x.axes) != p.channel_axis(x):
        raise Unknown("LogSoftmax over another axis than channels")
    y = p.like(x)
    p.emit(node, LogSoftmaxOp(x.value, y, source_of(node)), Held(y, x.axes, x.backwards))


# ---- recurrent layers

_FUNCTIONS = {"GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
_STATES = {"GRU": (5,), "LSTM": (5, 6, 7)}  # initial h and c, and peepholes


def recurrent(op_type: str) -> Read:
    """GRU with the reset gate applied after the product, or LSTM; one direction, from a zero state."""

    def read(p: Reader, node: ir.Node) -> None:
        only_attributes(
            node, "activations", "direction", "hidden_size", "layout", "linear_before_reset", "input_forget"
        )
        x = p.ordered(node, 0, "TNC")
        given = node.attributes.get("activations")
        functions = _FUNCTIONS[op_type] if given is None else [name.lower() for name in given.as_strings()]
        direction = text(node, "direction", "forward")
        if direction not in ("forward", "reverse"):
            raise Unknown(f"{op_type} in both directions")
        if functions != _FUNCTIONS[op_type] or integer(node, "layout", 0) or integer(node, "input_forget", 0):
            raise Unknown(f"{op_type} with other functions, batch first, or coupled gates")
        if op_type == "GRU" and integer(node, "linear_before_reset", 0) != 1:
            raise Unknown("GRU that resets the state before its product (linear_before_reset = 0)")
        _refuse_states(p, node)
        op, held = _layer(p, node, x, backwards=x.backwards != (direction == "reverse"))
        p.emit(node, op, held)

    return read


def _refuse_states(p: Reader, node: ir.Node) -> None:
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        raise Unknown(f"{node.op_type} with lengths of sequences")
    for index in _STATES[node.op_type]:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and np.any(p.constant(node, index)):
            raise Unknown(f"{node.op_type} with an initial state or peepholes")
    for output in node.outputs[1:]:
        if output.uses() or output.is_graph_output():
            raise Unknown(f"{node.op_type} whose final state is used")


def _layer(p: Reader, node: ir.Node, x: Held, backwards: bool) -> tuple[RecurrentOp, Held]:
    gates = 3 if node.op_type == "GRU" else 4
    w, r = p.constant(node, 1), p.constant(node, 2)
    hidden = r.shape[-1]
    rows = gates * hidden
    b = p.constant(node, 3, np.zeros((1, 2 * rows), np.float32))
    channels = p.out.channels[x.value]
    shapes = (w.shape, r.shape, b.shape)
    if shapes != ((1, rows, channels), (1, rows, hidden), (1, 2 * rows)) or integer(
        node, "hidden_size", hidden
    ) != (hidden):
        raise Unknown(f"{node.op_type} with weights of shapes {', '.join(map(str, shapes))}")
    if {array.dtype for array in (w, r, b)} != {np.dtype(np.float32)}:
        raise Unknown(f"{node.op_type} with weights other than float32")
    y = p.new(hidden, p.out.frames[x.value])
    op = RecurrentOp(
        x.value, y, "gru" if gates == 3 else "lstm", w[0], r[0], b[0, :rows], b[0, rows:], backwards,
        source_of(node), _row_scale(p, node, 1), _row_scale(p, node, 2),
    )  # fmt: skip
    return op, Held(y, ("T", 1, "N", hidden), x.backwards)


def _row_scale(p: Reader, node: ir.Node, index: int) -> np.ndarray | None:
    """Scales (G * H,) of int8 weights; ``None`` for others."""
    value = node.inputs[index]
    scaled = p.scaled.get(value) if value is not None else None
    if scaled is None or (scaled.axis != 1 and scaled.scale.size > 1):
        return None
    return np.broadcast_to(scaled.scale.astype(np.float32).reshape(-1), scaled.integers.shape[1:2])


# ---- quantisers


def quantize(p: Reader, node: ir.Node) -> None:
    """To 8 bits with one scale."""
    only_attributes(node, "axis", "block_size", "output_dtype", "saturate")
    x = p.operand(node)
    quant = _scale(p, node)
    for op in p.out.ops:
        if isinstance(op, QuantOp) and (op.x, op.quant) == (x.value, quant):
            p.held[node.outputs[0]] = Held(op.y, x.axes, x.backwards, quant)
            return
    y = p.like(x)
    p.emit(node, QuantOp(x.value, y, quant), Held(y, x.axes, x.backwards, quant))


def dequantize(p: Reader, node: ir.Node) -> None:
    """Of a quantised value, or of a constant."""
    only_attributes(node, "axis", "block_size")
    value = node.inputs[0]
    held = p.held.get(value) if value is not None else None
    if held is None:
        _constant(p, node)
        return
    if not isinstance(held, Held) or held.stored is None or held.stored != _scale(p, node):
        raise Unknown("DequantizeLinear that does not undo a QuantizeLinear")
    p.held[node.outputs[0]] = Held(held.value, held.axes, held.backwards)


def _scale(p: Reader, node: ir.Node) -> Quantised:
    """A signed range is an unsigned one with its zero point 128 higher."""
    scale, zero = p.constant(node, 1), p.constant(node, 2, np.zeros((), np.uint8))
    asked = integer(node, "output_dtype", 0)
    if scale.size != 1 or zero.size != 1 or zero.dtype not in (np.uint8, np.int8):
        raise Unknown(f"{node.op_type} other than to 8 bits with one scale")
    if scale.dtype != np.float32 or not 0 < float(scale.reshape(())) < math.inf:
        raise Unknown(f"{node.op_type} with scale {scale.reshape(-1)[0]} in {scale.dtype}")
    if integer(node, "block_size", 0) or asked not in (0, ir.DataType.from_numpy(zero.dtype)):
        raise Unknown(f"{node.op_type} in blocks or to another type")
    shift = 128 if zero.dtype == np.int8 else 0
    return Quantised(float(scale.reshape(())), int(zero.reshape(())) + shift)


def _constant(p: Reader, node: ir.Node) -> None:
    whole, scale = p.constant(node, 0), p.constant(node, 1)
    zero = p.constant(node, 2, np.zeros((), whole.dtype))
    axis = integer(node, "axis", 1)
    if whole.dtype.kind not in "iu" or scale.dtype != np.float32 or integer(node, "block_size", 0):
        raise Unknown("DequantizeLinear of other than integers, in float32, without blocks")
    if np.any(zero):
        raise Unknown("DequantizeLinear of a constant with a zero point")
    if scale.size > 1 and scale.shape != (whole.shape[axis],):
        raise Unknown(f"DequantizeLinear of a constant with scales of shape {list(scale.shape)}")
    scaled = Scaled(whole, scale.reshape(-1), axis % max(1, whole.ndim))
    if whole.dtype == np.int8:
        p.scaled[node.outputs[0]] = scaled
    else:
        shape = [-1 if i == scaled.axis and scale.size > 1 else 1 for i in range(whole.ndim)]
        p.folded[node.outputs[0]] = whole * scale.astype(np.float64).reshape(shape)
