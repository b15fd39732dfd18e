"""Reads the geometry of a Conv node."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.ir.shapes import dims_of
from rubicc.passes.layout.operands import Operand, Stays, operand
from rubicc.passes.layout.phases import Geometry
from rubicc.passes.rewrite import is_standard, rank


def is_conv1d(node: ir.Node) -> bool:
    """Whether ``node`` is a convolution of (N, C, T)."""
    return is_standard(node, "Conv") and rank(node.inputs[0]) == 3 and len(node.inputs) >= 2


def geometry(node: ir.Node) -> Geometry:
    """Geometry of a 1-D Conv.

    Raises:
        Stays: the weight has no known shape, or the padding depends on the length.
    """
    weight = node.inputs[1]
    dims = dims_of(weight) if weight is not None else None
    sizes = [dim for dim in dims or () if isinstance(dim, int)]
    if len(sizes) != 3:
        raise Stays("its weights have no static shape")
    outputs, inputs, taps = sizes
    groups = node.attributes.get_int("group", 1)
    stride = (node.attributes.get_ints("strides", None) or [1])[0]
    dilation = (node.attributes.get_ints("dilations", None) or [1])[0]
    before, after = _pads(node, stride, dilation * (taps - 1))
    return Geometry(groups, inputs, outputs // groups, taps, stride, dilation, before, after)


def _pads(node: ir.Node, stride: int, reach: int) -> tuple[int, int]:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        before, after = node.attributes.get_ints("pads", None) or [0, 0]
        if before < 0 or after < 0:
            raise Stays("its padding is negative")
        return before, after
    if mode == "VALID":
        return 0, 0
    if stride != 1:
        raise Stays(f"its padding ({mode}) depends on the length")
    small, large = reach // 2, reach - reach // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def operands(node: ir.Node) -> tuple[Operand, Operand | None]:
    """Weight and bias of a Conv; raises Stays where they cannot be rearranged."""
    weight = node.inputs[1]
    assert weight is not None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return operand(weight), None if bias is None else operand(bias)


def is_quantised(node: ir.Node) -> bool:
    """Whether the weights come through a quantiser or as dequantised integers."""
    value = node.inputs[1]
    return value is not None and value.producer() is not None
