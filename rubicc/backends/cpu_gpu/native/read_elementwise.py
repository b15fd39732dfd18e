"""Nodes that compute element by element."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from rubicc.backends.cpu_gpu.native.operations import AddOp, ChannelOp, UnaryOp
from rubicc.backends.cpu_gpu.native.program import Activation, Function
from rubicc.backends.cpu_gpu.native.reader import Held, Read, Reader, Unknown, only_attributes, text
from rubicc.ir.graph import op_key, source_of


def unary(function: Function) -> Read:
    """A function without numbers."""

    def read(p: Reader, node: ir.Node) -> None:
        only_attributes(node)
        _function(p, node, p.operand(node), Activation(function))

    return read


def gelu(p: Reader, node: ir.Node) -> None:
    """The exact one."""
    only_attributes(node, "approximate")
    if text(node, "approximate", "none") != "none":
        raise Unknown("Gelu by tanh")
    _function(p, node, p.operand(node), Activation("gelu"))


def clip(p: Reader, node: ir.Node) -> None:
    """To constant limits."""
    only_attributes(node)
    limits = [p.constant(node, index, np.array(end)) for index, end in ((1, -math.inf), (2, math.inf))]
    if any(limit.size != 1 for limit in limits):
        raise Unknown("Clip to several limits")
    low, high = (float(limit.reshape(())) for limit in limits)
    if not low <= high:
        raise Unknown(f"Clip to [{low}, {high}]")
    _function(p, node, p.operand(node), Activation("clip", low, high))


def multiply(p: Reader, node: ir.Node) -> None:
    """SiLU, or constant factors."""
    this = _computed_side(p, node)
    if this is not None:
        x = p.operand(node, this)
        factors = p.per_channel(node, p.constant(node, 1 - this), x)
        if factors.size == 1:
            _function(p, node, x, Activation("affine", float(factors[0]), 0.0))
        else:
            _by_channel(p, node, x, scale=factors)
        return
    for this in (0, 1):
        x, s = p.operand(node, this), p.operand(node, 1 - this)
        if UnaryOp(x.value, s.value, Activation("sigmoid")) in _makers(p, s) and _alike(x, s):
            _function(p, node, x, Activation("silu"))
            return
    raise Unknown("Mul of two computed values")


def add(p: Reader, node: ir.Node) -> None:
    """A sum of two values, or of one and constants."""
    this = _computed_side(p, node)
    if this is not None:
        x = p.operand(node, this)
        terms = p.per_channel(node, p.constant(node, 1 - this), x)
        if terms.size == 1:
            _function(p, node, x, Activation("affine", 1.0, float(terms[0])))
        else:
            _by_channel(p, node, x, shift=terms)
        return
    a, b = p.operand(node, 0), p.operand(node, 1)
    if not _alike(a, b) or p.out.frames[a.value] != p.out.frames[b.value]:
        frames = " and ".join(str(p.out.frames[v.value]) for v in (a, b))
        raise Unknown(f"Add of axes {a.axes} and {b.axes}, frames {frames}")
    y = p.like(a)
    p.emit(node, AddOp(a.value, b.value, y, source_of(node)), replace(a, value=y))


def _alike(a: Held, b: Held) -> bool:
    """Whether elements that meet belong to the same channel and frame."""
    return (a.axes, a.backwards) == (b.axes, b.backwards)


def _makers(p: Reader, held: Held) -> list[UnaryOp]:
    return [replace(op, source="") for op in p.out.ops if isinstance(op, UnaryOp) and op.y == held.value]


def _computed_side(p: Reader, node: ir.Node) -> int | None:
    """Which of two operands is not constant; ``None`` when neither is."""
    only_attributes(node)
    constants = [p.array(value) is not None for value in node.inputs]
    if len(constants) != 2 or all(constants):
        raise Unknown(f"{op_key(node)} of constants")
    return constants.index(False) if any(constants) else None


def _function(p: Reader, node: ir.Node, x: Held, activation: Activation) -> None:
    y = p.like(x)
    p.emit(node, UnaryOp(x.value, y, activation, source_of(node)), replace(x, value=y))


def _by_channel(
    p: Reader, node: ir.Node, x: Held, scale: np.ndarray | None = None, shift: np.ndarray | None = None
) -> None:
    y = p.like(x)
    channels = p.out.channels[x.value]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    op = ChannelOp(
        x.value,
        y,
        ones if scale is None else scale.astype(np.float32),
        zeros if shift is None else shift.astype(np.float32),
        source_of(node),
    )
    p.emit(node, op, replace(x, value=y))
