"""GELU under one name."""

from __future__ import annotations

import math
from typing import Literal

import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.ane.matching import data_uses, drop_unused, number
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, is_standard

GELU_OPSET = 20
_CLOSE = 1e-6  # of a constant stored in float32


@register
class Gelu(Pass):
    """GELU written out becomes the operator Gelu.

    ::

        Mul(x, Add(Erf(Div(x, sqrt(2))), 1)) -> Mul(0.5)            =>   Gelu(x)
        x * 0.5 * (1 + Tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))     =>   Gelu(x, approximate=tanh)

    Factors may stand in any order and on either side. The two are different functions and stay so; Core ML
    has both. Before operator set 20 there is no Gelu, and nothing changes.
    """

    id = "ane.gelu"
    requires = frozenset({"constants-are-initializers"})
    ensures = frozenset({"gelu-is-one-operator"})
    tolerance = 1e-5

    def run(self, graph: Graph) -> bool:
        """See :class:`Gelu`."""
        if graph.opset < GELU_OPSET:
            return False
        edit, changed = Editor(graph, self.id), False
        for node in graph.nodes:
            if node.graph is not None and is_standard(node, "Erf", "Tanh"):
                changed |= _replace(edit, node)
        return changed


def _replace(edit: Editor, node: ir.Node) -> bool:
    kind: Literal["none", "tanh"] = "none" if is_standard(node, "Erf") else "tanh"
    x = _of_erf(node) if kind == "none" else _of_tanh(node)
    end = None if x is None else _product(node, x)
    if x is None or end is None:
        return False
    out = end.outputs[0]
    made = edit.node(
        "Gelu", [x], like=end, attributes={"approximate": kind}, shape=out.shape, dtype=out.dtype
    )
    edit.mark(made, node)
    edit.replace_value(out, made.outputs[0])
    drop_unused(edit, out)
    return True


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and abs(value - wanted) <= _CLOSE * abs(wanted)


def _scaled(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """``value`` as a computed value times a number."""
    node = value.producer() if value is not None else None
    if node is None or not is_standard(node, "Mul", "Div"):
        return None
    a, b = node.inputs[0], node.inputs[1]
    right, left = number(b), number(a)
    if a is not None and right is not None:
        return (a, right) if is_standard(node, "Mul") else ((a, 1 / right) if right else None)
    if b is not None and left is not None and is_standard(node, "Mul"):
        return b, left
    return None


def _of_erf(node: ir.Node) -> ir.Value | None:
    """x of erf(x / sqrt(2))."""
    inner = _scaled(node.inputs[0])
    return inner[0] if inner is not None and _near(inner[1], math.sqrt(0.5)) else None


def _of_tanh(node: ir.Node) -> ir.Value | None:
    """x of tanh(sqrt(2/pi) (x + 0.044715 x^3))."""
    inner = _scaled(node.inputs[0])
    add = inner[0].producer() if inner is not None and _near(inner[1], math.sqrt(2 / math.pi)) else None
    if add is None or not is_standard(add, "Add"):
        return None
    for x, term in ((add.inputs[0], add.inputs[1]), (add.inputs[1], add.inputs[0])):
        cubic = _scaled(term)
        if x is not None and cubic is not None and _near(cubic[1], 0.044715) and _is_cube(cubic[0], x):
            return x
    return None


def _is_cube(value: ir.Value, x: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return False
    if is_standard(node, "Pow"):
        return node.inputs[0] is x and number(node.inputs[1]) == 3.0
    if not is_standard(node, "Mul"):
        return False
    for one, rest in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        square = rest.producer() if rest is not None else None
        if one is x and square is not None:
            if is_standard(square, "Mul") and square.inputs[0] is x and square.inputs[1] is x:
                return True
            if is_standard(square, "Pow") and square.inputs[0] is x and number(square.inputs[1]) == 2.0:
                return True
    return False


def _product(node: ir.Node, x: ir.Value) -> ir.Node | None:
    """The node that makes ``0.5 * x * (1 + f)``, where ``node`` makes f; nothing else may read the parts."""
    add = _only(node.outputs[0])
    if add is None or not is_standard(add, "Add"):
        return None
    if not any(number(v) == 1.0 for v in add.inputs):
        return None
    value, factor, has_x, last = add.outputs[0], 1.0, False, None
    while not (has_x and _near(factor, 0.5)):
        last = _only(value)
        if last is None or not is_standard(last, "Mul", "Div"):
            return None
        first = last.inputs[0] is value
        other = last.inputs[1] if first else last.inputs[0]
        by = number(other)
        if is_standard(last, "Div"):
            if by is None or not by or not first:
                return None
            factor /= by
        elif by is not None:
            factor *= by
        elif other is x and not has_x:
            has_x = True
        else:
            scaled = _scaled(other)
            if scaled is None or scaled[0] is not x or has_x:
                return None
            has_x, factor = True, factor * scaled[1]
        value = last.outputs[0]
    return last


def _only(value: ir.Value) -> ir.Node | None:
    uses = data_uses(value)
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None
