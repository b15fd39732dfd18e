"""Receptive field and total stride: which input samples one output frame depends on.

Every value on the way carries the interval of input samples its frame ``t`` reads, ``[t*stride + low,
t*stride + high]``, and the axis that is time. Operators either move that interval or end it with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import QONNX_DOMAIN, Graph, source_of
from rubicc.ir.shapes import dims_of, infer_shapes
from rubicc.ir.types import constant_of


@dataclass(frozen=True)
class ReceptiveField:
    """Result for the first output that depends on time.

    Attributes:
        samples: input samples one output frame depends on; ``None`` when unbounded or not known.
        stride: input samples per output frame (1 when it cannot be told).
        reason: why ``samples`` is ``None``, with the node; empty otherwise.
    """

    samples: int | None
    stride: int
    reason: str


@dataclass(frozen=True)
class _Span:
    """Interval read by frame ``t``: ``t*stride + [low, high]`` along ``axis``; ``reason``: no bound."""

    low: int
    high: int
    stride: int
    axis: int
    reason: str = ""


_PROBE_BATCH, _PROBE_LENGTH = 3, 100_003
Rule = Callable[[ir.Node, _Span], _Span]


class _Lost(Exception):
    """Time cannot be followed through this node."""


def receptive_field(graph: Graph) -> ReceptiveField:
    """Receptive field and stride of ``graph``'s outputs by propagation from its inputs.

    Unbounded layers (recurrent, attention, reductions over time) give ``samples=None`` with the reason; the
    stride is still followed where the time axis can be.
    """
    shaped = _probed(graph)
    spans: dict[ir.Value, _Span] = {}
    for value in shaped.inputs:
        axis = _time_axis(value)
        if axis is not None:
            spans[value] = _Span(0, 0, 1, axis)
    lost = ""
    for node in shaped.nodes:
        try:
            spans |= _through(node, spans)
        except _Lost as err:
            lost = lost or f"{err} at {source_of(node)}"
        except (ValueError, IndexError, TypeError):  # attributes that contradict the shapes
            lost = lost or f"{node.op_type} is not legal at {source_of(node)}"
    found = [spans[value] for value in shaped.outputs if value in spans]
    if not found:
        return ReceptiveField(None, 1, lost or "no output depends on a time axis")
    widest = max(found, key=lambda span: (bool(span.reason), span.high - span.low))
    if widest.reason:
        return ReceptiveField(None, widest.stride, widest.reason)
    return ReceptiveField(widest.high - widest.low + 1, widest.stride, "")


def _probed(graph: Graph) -> Graph:
    """Shapes at a large prime length, which no other dim equals, so Reshape can be followed by numbers."""
    bind: dict[str, int] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(dims_of(value) or ()):
            if isinstance(dim, str):
                bind.setdefault(dim, _PROBE_BATCH if axis == 0 else _PROBE_LENGTH)
    try:
        return infer_shapes(graph, bind)
    except VerificationFailed:  # the network has a largest length (position embeddings)
        return infer_shapes(graph)


def _time_axis(value: ir.Value) -> int | None:
    """Last symbolic (or probed) axis beyond the batch, else the last axis of (N, C, T) and (N, T)."""
    dims = dims_of(value)
    if dims is None or len(dims) < 2:
        return None
    free = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int) or dim == _PROBE_LENGTH]
    symbolic = [axis for axis in free if axis > 0]
    return symbolic[-1] if symbolic else len(dims) - 1


def _through(node: ir.Node, spans: dict[ir.Value, _Span]) -> dict[ir.Value, _Span]:
    timed = [(i, spans[v]) for i, v in enumerate(node.inputs) if v is not None and v in spans]
    if not timed or node.op_type in ("Shape", "Size"):
        return {}
    index, span = timed[0]
    if node.op_type in ("MatMul", "Einsum") and len(timed) > 1:
        result = _ended(node, span, "attention over all positions")
    elif node.op_type == "Gather" and index == 1:  # embedding lookup: the ids' axes replace the gathered one
        result = replace(span, axis=span.axis + (node.attributes.get_int("axis", 0) or 0))
    elif node.op_type in _RULES:
        result = _RULES[node.op_type](node, span)
    elif node.op_type in ("Concat", "Split"):
        _refuse_along_time(node, span)
        result = _merged(node, timed)
    elif node.op_type in _ELEMENTWISE or node.domain == QONNX_DOMAIN:
        result = _merged(node, timed)
    else:
        _fail(node)
    return {value: result for value in node.outputs if value.name}


def _fail(node: ir.Node) -> _Span:
    raise _Lost(f"time cannot be followed through {node.op_type}")


def _ended(node: ir.Node, span: _Span, why: str) -> _Span:
    return replace(span, reason=span.reason or f"{node.op_type} ({why}) at {source_of(node)}")


def _rank(value: ir.Value | None) -> int:
    dims = None if value is None else dims_of(value)
    if dims is None:
        raise _Lost("unknown rank")
    return len(dims)


def _merged(node: ir.Node, timed: list[tuple[int, _Span]]) -> _Span:
    """Union of the intervals of broadcast operands; axes are compared from the end."""
    rank = _rank(node.outputs[0])
    spans = [replace(s, axis=s.axis - _rank(node.inputs[i]) + rank) for i, s in timed]
    first = spans[0]
    if any(s.stride != first.stride for s in spans):
        raise _Lost("operands of different stride meet")
    reason = next((s.reason for s in spans if s.reason), "")
    if any(s.axis != first.axis for s in spans):
        return _ended(node, first, "every position meets every other")
    return replace(first, low=min(s.low for s in spans), high=max(s.high for s in spans), reason=reason)


def _ints(node: ir.Node, name: str, index: int) -> list[int] | None:
    """Integers from an attribute or a constant input."""
    if name in node.attributes:
        value = node.attributes[name].value
        return [int(value)] if isinstance(value, int) else [int(v) for v in value]
    if 0 <= index < len(node.inputs) and node.inputs[index] is not None:
        array = constant_of(node.inputs[index])
        if array is None:
            raise _Lost(f"{node.op_type} with computed {name}")
        return [int(v) for v in array.reshape(-1)]
    return None


def _windowed(node: ir.Node, span: _Span) -> _Span:
    """Convolution and pooling over the spatial axes, which start at 2."""
    place = span.axis - 2
    if place < 0:
        return _ended(node, span, "mixes the time axis")
    kernel = _ints(node, "kernel_shape", -1)
    if kernel is None:
        weight = node.inputs[1]
        dims = None if weight is None else dims_of(weight)
        if dims is None:
            raise _Lost("unknown kernel")
        kernel = [int(d) for d in dims[2:] if isinstance(d, int)]
    size = kernel[place]
    stride = (_ints(node, "strides", -1) or [1] * len(kernel))[place]
    dilation = (_ints(node, "dilations", -1) or [1] * len(kernel))[place]
    pads = _ints(node, "pads", -1) or [0] * (2 * len(kernel))
    if (node.attributes.get_string("auto_pad") or "NOTSET").startswith("SAME"):
        pads = [0] * place + [(size - 1) * dilation // 2] + [0] * (2 * len(kernel) - place - 1)
    low = span.low - pads[place] * span.stride
    high = span.high + ((size - 1) * dilation - pads[place]) * span.stride
    return replace(span, low=low, high=high, stride=span.stride * stride)


def _recurrent(node: ir.Node, span: _Span) -> _Span:
    batch_first = node.attributes.get_int("layout", 0)
    if span.axis != (1 if batch_first else 0):
        raise _Lost("a recurrent layer over another axis")
    axis = 1 if batch_first else 0
    return _ended(
        node, replace(span, axis=axis, reason=""), "recurrent"
    )  # says more than a reversal before it


def _over(node: ir.Node, span: _Span, axes: list[int], why: str) -> _Span:
    rank = _rank(node.inputs[0])
    return _ended(node, span, why) if span.axis in [a % rank for a in axes] else span


def _softmax(node: ir.Node, span: _Span) -> _Span:
    return _over(node, span, [node.attributes.get_int("axis", -1) or 0], "normalises over time")


def _layer_norm(node: ir.Node, span: _Span) -> _Span:
    axis, rank = node.attributes.get_int("axis", -1) or 0, _rank(node.inputs[0])
    return _over(node, span, list(range(axis % rank, rank)), "normalises over time")


def _spatial_norm(node: ir.Node, span: _Span) -> _Span:
    return _ended(node, span, "normalises over time") if span.axis >= 2 else span


def _reduce(node: ir.Node, span: _Span) -> _Span:
    rank = _rank(node.inputs[0])
    axes = [a % rank for a in _ints(node, "axes", 1) or list(range(rank))]
    if span.axis in axes:
        raise _Lost(f"{node.op_type} over time")
    dropped = 0 if node.attributes.get_int("keepdims", 1) else sum(a < span.axis for a in axes)
    return replace(span, axis=span.axis - dropped)


def _matmul(node: ir.Node, span: _Span) -> _Span:
    first = node.inputs[0]
    ranks = [_rank(v) for v in node.inputs[:2]]
    left = first is not None and constant_of(first) is None
    from_end = span.axis - ranks[0 if left else 1]
    if from_end == (-1 if left else -2):
        return _ended(node, span, "mixes all positions")
    return replace(span, axis=from_end + _rank(node.outputs[0]))


def _gemm(node: ir.Node, span: _Span) -> _Span:
    axis = 1 - span.axis if node.attributes.get_int("transA", 0) else span.axis
    return replace(span, axis=axis) if axis == 0 else _ended(node, span, "mixes all positions")


def _transpose(node: ir.Node, span: _Span) -> _Span:
    perm = _ints(node, "perm", -1) or list(reversed(range(_rank(node.inputs[0]))))
    return replace(span, axis=perm.index(span.axis))


def _squeeze(node: ir.Node, span: _Span) -> _Span:
    rank = _rank(node.inputs[0])
    axes = _ints(node, "axes", 1)
    if axes is None:
        raise _Lost("Squeeze without axes")
    return replace(span, axis=span.axis - sum(a % rank < span.axis for a in axes))


def _unsqueeze(node: ir.Node, span: _Span) -> _Span:
    axes = _ints(node, "axes", 1) or []
    rank = _rank(node.inputs[0]) + len(axes)
    places = sorted(a % rank for a in axes)
    free = [a for a in range(rank) if a not in places]
    return replace(span, axis=free[span.axis])


def _reshape(node: ir.Node, span: _Span) -> _Span:
    """Time survives when an output axis has its symbol and the elements after it are as many as before."""
    before, after = dims_of(node.inputs[0]) if node.inputs[0] else None, dims_of(node.outputs[0])
    if before is None or after is None or before[span.axis] is None:
        raise _Lost("time cannot be followed through Reshape")
    for axis, dim in enumerate(after):
        if dim == before[span.axis] and _count(after[axis + 1 :]) == _count(before[span.axis + 1 :]):
            return replace(span, axis=axis)
    raise _Lost("time cannot be followed through Reshape")


def _count(dims: tuple[int | str | None, ...]) -> tuple[int, list[str]]:
    return math.prod(d for d in dims if isinstance(d, int)), sorted(
        str(d) for d in dims if isinstance(d, str)
    )


def _slice(node: ir.Node, span: _Span) -> _Span:
    starts = _ints(node, "starts", 1) or []
    axes = _ints(node, "axes", 3) or list(range(len(starts)))
    steps = _ints(node, "steps", 4) or [1] * len(starts)
    rank = _rank(node.inputs[0])
    for start, axis, step in zip(starts, axes, steps, strict=True):
        if axis % rank != span.axis:
            continue
        if step < 0:
            span = _ended(node, span, "reverses time")
        elif start < 0:
            raise _Lost("Slice from the end of time")
        else:
            shift = start * span.stride
            span = replace(span, low=span.low + shift, high=span.high + shift, stride=span.stride * step)
    return span


def _pad(node: ir.Node, span: _Span) -> _Span:
    amounts = _ints(node, "pads", 1) or []
    rank = _rank(node.inputs[0])
    axes = _ints(node, "axes", 3) or list(range(rank))
    before = {a % rank: n for a, n in zip(axes, amounts, strict=False)}
    shift = before.get(span.axis, 0) * span.stride
    return replace(span, low=span.low - shift, high=span.high - shift)


def _gather(node: ir.Node, span: _Span) -> _Span:
    rank, axis = _rank(node.inputs[0]), node.attributes.get_int("axis", 0) or 0
    axis %= rank
    if axis == span.axis:
        raise _Lost("Gather along time")
    if axis > span.axis:
        return span
    return replace(span, axis=span.axis + _rank(node.outputs[0]) - rank)


def _refuse_along_time(node: ir.Node, span: _Span) -> None:
    axis = (node.attributes.get_int("axis", 0) or 0) % _rank(node.outputs[0])
    if axis == span.axis:
        raise _Lost(f"{node.op_type} along time")


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "ConvInteger"), _windowed),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer_norm),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _spatial_norm),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"), _reduce),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
}
_ELEMENTWISE = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Min",
        "Max",
        "Where",
        "Relu",
        "Sigmoid",
        "Tanh",
        "Gelu",
        "Erf",
        "Exp",
    }
    | {
        "Log",
        "Sqrt",
        "Neg",
        "Abs",
        "Clip",
        "Cast",
        "Identity",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Softplus",
    }
    | {
        "HardSigmoid",
        "HardSwish",
        "Mish",
        "Swish",
        "BatchNormalization",
        "QuantizeLinear",
        "DequantizeLinear",
    }
    | {"Dropout", "Equal", "Less", "Greater", "And", "Or", "Not", "Round", "Floor", "Ceil", "Softsign", "Sum"}
    | {"Reciprocal", "Expand", "GatherElements", "Mod", "Sign", "Celu", "Mean"}
)
