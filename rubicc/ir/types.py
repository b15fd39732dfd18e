"""Typed view of a value: shape, element type, layout and quantisation, derived from the graph around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.ir.shapes import KNOWN, Dim, dims_of

_MOVES_DATA = frozenset(
    {
        "Identity",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Split",
        "Expand",
        "MaxPool",
    }
)
_SPATIAL_OPS = frozenset(
    {"Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool", "InstanceNormalization"}
)
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_INT_BITS = {
    ir.DataType.INT4: (4, True),
    ir.DataType.UINT4: (4, False),
    ir.DataType.INT8: (8, True),
    ir.DataType.UINT8: (8, False),
    ir.DataType.INT16: (16, True),
    ir.DataType.UINT16: (16, False),
    ir.DataType.INT32: (32, True),
}
_MAX_TRACE = 64  # a chain of data movements longer than this carries no annotation


@dataclass(frozen=True)
class QuantType:
    """Uniform quantisation: value = (integer - zero_point) * scale.

    Attributes:
        bits: width of the integer; 1 with ``signed`` is bipolar (-1, +1).
        signed, narrow: which integers exist (qonnx's meaning).
        scale: one number, or one per channel.
        zero_point: one number, or one per channel.
        rounding: QONNX rounding mode, ``ROUND`` is half to even.
    """

    bits: int
    signed: bool
    scale: tuple[float, ...]
    zero_point: tuple[float, ...] = (0.0,)
    narrow: bool = False
    rounding: str = "ROUND"

    @property
    def per_channel(self) -> bool:
        """Whether channels have scales of their own."""
        return len(self.scale) > 1


@dataclass(frozen=True)
class TensorType:
    """What a value is.

    Attributes:
        shape: numbers, symbol names, ``None`` for unknown dims; ``None`` for unknown rank.
        dtype: numpy name of the element type, ``None`` when unknown.
        layout: ``NCT`` / ``NCHW`` beside convolutions, ``TNC`` / ``NTC`` beside recurrent ones, else ``""``.
        quant: how the value is quantised, ``None`` for full precision.
    """

    shape: tuple[Dim, ...] | None
    dtype: str | None
    layout: str = ""
    quant: QuantType | None = None


def value_type(graph: Graph, value: ir.Value) -> TensorType:
    """Type of ``value`` in ``graph`` (run :func:`rubicc.ir.shapes.infer_shapes` first for full shapes)."""
    dtype = None if value.dtype is None else np.dtype(value.dtype.numpy()).name
    return TensorType(dims_of(value), dtype, _layout(value), quant_type(value))


def quant_type(value: ir.Value) -> QuantType | None:
    """Quantisation of ``value`` from its producer, through operators that only move data.

    A per-channel scale is not followed through movement, because the channel axis may have moved.
    """
    for step in range(_MAX_TRACE):
        node = value.producer()
        if node is None:
            return None
        if node.domain == QONNX_DOMAIN or node.op_type == "DequantizeLinear":
            quant = _from_producer(node)
            return quant if quant is None or step == 0 or not quant.per_channel else None
        if node.domain or node.op_type not in _MOVES_DATA or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return None


def bits_of(value: ir.Value) -> int:
    """Bits per element for cost figures: quantised width, else the element type's, 32 when unknown."""
    quant = quant_type(value)
    if quant is not None:
        return quant.bits
    return 32 if value.dtype is None else value.dtype.bitwidth


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """Array of an initializer, a Constant node, or what shape inference evaluated; else ``None``."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    if KNOWN in value.meta:
        return value.meta[KNOWN]
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor().numpy()
    return None


def _numbers(node: ir.Node, index: int) -> tuple[float, ...] | None:
    if index >= len(node.inputs):
        return None
    array = constant_of(node.inputs[index])
    return None if array is None else tuple(float(v) for v in array.reshape(-1))


def _from_producer(node: ir.Node) -> QuantType | None:
    scale = _numbers(node, 1)
    if scale is None:
        return None
    if node.op_type == "DequantizeLinear":
        source = node.inputs[0]
        known = None if source is None or source.dtype is None else _INT_BITS.get(source.dtype)
        return None if known is None else QuantType(*known, scale, _numbers(node, 2) or (0.0,))
    if node.op_type == "BipolarQuant":
        return QuantType(1, True, scale)
    six = node.op_type == "Trunc" and len(node.inputs) > 5
    bits = _numbers(node, {"Trunc": 5 if six else 4}.get(node.op_type, 3))
    zero = _numbers(node, 2)
    if bits is None or zero is None or len(set(bits)) != 1:
        return None
    attributes = node.attributes
    trunc = node.op_type == "Trunc"
    return QuantType(
        int(bits[0]),
        bool(attributes.get_int("signed", 1)),
        (_numbers(node, 4) if six else None) or scale,
        zero,
        bool(attributes.get_int("narrow", 0 if trunc else 1)),
        attributes.get_string("rounding_mode", "FLOOR" if trunc else "ROUND") or "ROUND",
    )


def _layout(value: ir.Value) -> str:
    rank = None if value.shape is None else len(value.shape)
    producer = value.producer()
    beside = [use.node for use in value.uses() if use.idx == 0]
    if producer is not None:
        beside.append(producer)
    for node in beside:
        if node.op_type in _SPATIAL_OPS:
            return {3: "NCT", 4: "NCHW"}.get(rank or 0, "")
        if node.op_type in _RECURRENT and node is not producer and rank == 3:
            return "NTC" if node.attributes.get_int("layout", 0) else "TNC"
    return ""
