"""Layer normalisation over channels, as the arithmetic that the Neural Engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, source_of
from rubicc.passes.ane.matching import (
    BSC,
    MIN_OPSET,
    SBC,
    Channels,
    Form,
    axes_of,
    data_inputs,
    data_uses,
    drop_unused,
    entered,
    is_elementwise,
    number,
)
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard, only_use, rank

_FAR = 200  # nodes looked at around a normalisation
AXES_INPUT = 18  # operator set from which reductions take their axes as an input


@dataclass(frozen=True)
class Norm:
    """``gamma * (x - mean) / sqrt(variance + eps) + beta`` over the last axis of a rank-3 value.

    Attributes:
        last: node that makes ``out``.
        nodes: all nodes of it.
    """

    x: ir.Value
    gamma: ir.Value | None
    beta: ir.Value | None
    eps: float
    out: ir.Value
    last: ir.Node
    nodes: tuple[ir.Node, ...]


@register
class LayerNorm(Pass):
    """LayerNormalization over the features becomes arithmetic over the channels of (B, C, 1, S).

    ::

        x (B,S,C) -> LayerNormalization(gamma, beta) -> y
        becomes, between a view to (B, C, 1, S) and back,
        d = x - ReduceMean(x, 1);  n = d / Sqrt(ReduceMean(d * d, 1) + eps);  y = n * gamma + beta

    The scale comes before the bias. (Apple's form adds ``beta / gamma`` first, which divides by zero where
    training has driven a gamma to zero.) Also found where an exporter has written the arithmetic out. Only
    normalisations next to values that are channels first already, or will be, are changed.
    """

    id = "ane.layer-norm"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"layer-norm-is-arithmetic"})
    tolerance = 1e-5

    def run(self, graph: Graph) -> bool:
        """See :class:`LayerNorm`."""
        if graph.opset < MIN_OPSET:
            return False
        edit = Editor(graph, self.id)
        channels, changed = Channels(edit), False
        for node in graph.nodes:
            norm = None if node.graph is None else layer_norm(node)
            if norm is None:
                continue
            form = _touches_channels(norm)
            if form is None:
                self.note(source_of(node), "normalisation stays: nothing around it is channels first")
                continue
            self._replace(edit, channels, norm, form)
            changed = True
        return changed

    def _replace(self, edit: Editor, channels: Channels, norm: Norm, form: Form) -> None:
        write = Arithmetic(edit, norm, channels.enter(norm.x, form, norm.last))
        channels.leave(write.result(), norm.out, form, norm.last)
        drop_unused(edit, norm.out)


class Arithmetic:
    """The nodes of one normalisation over axis 1."""

    def __init__(self, edit: Editor, norm: Norm, x: ir.Value) -> None:
        self._edit, self._norm, self._x = edit, norm, x
        dims: list[Any] = list(x.shape) if x.shape is not None else [None] * 4
        self._whole, self._one = ir.Shape(dims), ir.Shape([dims[0], 1, *dims[2:]])

    def result(self) -> ir.Value:
        """The normalised value."""
        norm = self._norm
        deviation = self._node("Sub", [self._x, self._mean(self._x)], self._whole)
        square = self._node("Mul", [deviation, deviation], self._whole)
        variance = self._node("Add", [self._mean(square), self._number("eps", norm.eps)], self._one)
        y = self._node("Div", [deviation, self._node("Sqrt", [variance], self._one)], self._whole)
        for op, parameter in (("Mul", norm.gamma), ("Add", norm.beta)):
            array = constant(parameter)
            if array is None or parameter is None:
                continue
            held = self._edit.initializer(f"{parameter.name}_channels", array.reshape(1, -1, 1, 1))
            y = self._node(op, [y, held], self._whole)
        return y

    def _mean(self, value: ir.Value) -> ir.Value:
        if self._edit.graph.opset < AXES_INPUT:
            return self._node("ReduceMean", [value], self._one, {"axes": [1], "keepdims": 1})
        axes = self._edit.initializer("ane_channel_axis", np.asarray([1], np.int64))
        return self._node("ReduceMean", [value, axes], self._one, {"keepdims": 1})

    def _number(self, name: str, number: float) -> ir.Value:
        assert self._x.dtype is not None
        return self._edit.initializer(f"ane_{name}", np.asarray(number, self._x.dtype.numpy()))

    def _node(
        self, op: str, inputs: Sequence[ir.Value], shape: ir.Shape, attributes: dict[str, Any] | None = None
    ) -> ir.Value:
        like = self._norm.last
        made = self._edit.node(
            op, inputs, like=like, attributes=attributes or {}, shape=shape, dtype=self._x.dtype
        )
        return made.outputs[0]


def layer_norm(node: ir.Node) -> Norm | None:
    """The normalisation over the last axis that ``node`` is (or, written out, ends before scale and bias)."""
    if is_standard(node, "LayerNormalization"):
        return _operator(node)
    if is_standard(node, "Div"):
        return _written_out(node)
    return None


def _operator(node: ir.Node) -> Norm | None:
    x, gamma = node.inputs[0], node.inputs[1]
    beta = node.inputs[2] if len(node.inputs) > 2 else None
    extra = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
    if x is None or rank(x) != 3 or node.attributes.get_int("axis", -1) not in (-1, 2) or extra:
        return None
    width = x.shape[2] if x.shape is not None else None
    parameters = [constant(v) for v in (gamma, beta) if v is not None]
    if any(array is None or array.shape != (width,) for array in parameters):
        return None
    eps = node.attributes.get_float("epsilon", 1e-5)
    return Norm(x, gamma, beta, eps, node.outputs[0], node, (node,))


def _written_out(node: ir.Node) -> Norm | None:
    """``(x - mean) / sqrt(mean((x - mean)^2) + eps)`` and the scale and bias behind it."""
    deviation, root = node.inputs[0], _maker(node.inputs[1], "Sqrt")
    add = _maker(root.inputs[0], "Add") if root is not None else None
    subtract = _maker(deviation, "Sub")
    if add is None or root is None or subtract is None or deviation is None:
        return None
    eps, variance = number(add.inputs[1]), _maker(add.inputs[0], "ReduceMean")
    if eps is None:
        eps, variance = number(add.inputs[0]), _maker(add.inputs[1], "ReduceMean")
    x, mean = subtract.inputs[0], _maker(subtract.inputs[1], "ReduceMean")
    if eps is None or variance is None or mean is None or x is None or mean.inputs[0] is not x:
        return None
    square = variance.inputs[0].producer() if variance.inputs[0] is not None else None
    if square is None or not _is_square(square, deviation) or rank(x) != 3:
        return None
    if not (_over_features(mean) and _over_features(variance)):
        return None
    nodes = [mean, subtract, square, variance, add, root, node]
    out = node.outputs[0]
    gamma, out = _parameter(out, "Mul", x, nodes)
    beta, out = _parameter(out, "Add", x, nodes)
    return Norm(x, gamma, beta, eps, out, nodes[-1], tuple(nodes))


def _maker(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_standard(node, op) else None


def _is_square(node: ir.Node, value: ir.Value) -> bool:
    if is_standard(node, "Pow"):
        return node.inputs[0] is value and number(node.inputs[1]) == 2.0
    return is_standard(node, "Mul") and node.inputs[0] is value and node.inputs[1] is value


def _over_features(node: ir.Node) -> bool:
    return axes_of(node) in ([-1], [2]) and node.attributes.get_int("keepdims", 1) == 1


def _parameter(
    value: ir.Value, op: str, x: ir.Value, nodes: list[ir.Node]
) -> tuple[ir.Value | None, ir.Value]:
    """A constant along the features by which ``value`` is scaled or shifted, and the result."""
    node = only_use(value)
    if node is None or not is_standard(node, op) or x.shape is None:
        return None, value
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    array = constant(other)
    if array is None or array.size != x.shape[2] or array.shape[-1:] != (array.size,):
        return None, value
    nodes.append(node)
    return other, node.outputs[0]


def _touches_channels(norm: Norm) -> Form | None:
    """Form of the nearest view of channels, through elementwise operators and other normalisations."""
    seen: set[ir.Node] = set(norm.nodes)
    queue: list[ir.Value] = [norm.x, norm.out]
    while queue and len(seen) < _FAR:
        value = queue.pop(0)
        form = _form(value)
        if form is not None:
            return form
        maker = value.producer()
        for node in [*([maker] if maker is not None else []), *(node for node, _ in data_uses(value))]:
            if node in seen:
                continue
            seen.add(node)
            if is_elementwise(node) or is_standard(node, "LayerNormalization", "ReduceMean"):
                queue += [*node.outputs[:1], *data_inputs(node)]
    return None


def _form(value: ir.Value) -> Form | None:
    """The form with features last in which ``value`` is a view of channels."""
    return next((form for form in (BSC, SBC) if rank(value) == 3 and entered(value, form) is not None), None)
