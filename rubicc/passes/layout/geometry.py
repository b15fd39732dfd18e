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
    """Geometry of a Conv over (N, C, T) or (N, C, 1, T).

    Raises:
        Stays: as :func:`last_axis`, or the kernel has more than one row, or other axes are padded.
    """
    found = last_axis(node)
    dims = dims_of(node.inputs[1]) if node.inputs[1] is not None else None
    if any(dim != 1 for dim in (dims or ())[2:-1]):
        raise Stays("its kernel has more than one row")
    if any(other_pads(node)):
        raise Stays("it pads other axes than time")
    return found


def last_axis(node: ir.Node) -> Geometry:
    """Geometry of a Conv along its last axis, whatever it does along others.

    Raises:
        Stays: the weight has no known shape, or the padding depends on the length.
    """
    weight = node.inputs[1]
    dims = dims_of(weight) if weight is not None else None
    sizes = [dim for dim in dims or () if isinstance(dim, int)]
    if len(sizes) < 3 or len(sizes) != len(dims or ()):
        raise Stays("its weights have no static shape")
    outputs, inputs, taps = sizes[0], sizes[1], sizes[-1]
    groups = node.attributes.get_int("group", 1)
    stride = (node.attributes.get_ints("strides", None) or [1])[-1]
    dilation = (node.attributes.get_ints("dilations", None) or [1])[-1]
    before, after = _pads(node, stride, dilation * (taps - 1))
    return Geometry(groups, inputs, outputs // groups, taps, stride, dilation, before, after)


def other_pads(node: ir.Node) -> list[int]:
    """``pads`` along all spatial axes but the last: begins, then ends."""
    pads = list(node.attributes.get_ints("pads") or ())
    axes = len(pads) // 2
    return [*pads[: axes - 1], *pads[axes:-1]] if axes > 1 else []


def _pads(node: ir.Node, stride: int, reach: int) -> tuple[int, int]:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = node.attributes.get_ints("pads", None) or [0, 0]
        axes = len(pads) // 2
        before, after = pads[axes - 1], pads[-1]
        if min(pads) < 0:
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
