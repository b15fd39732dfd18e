"""Arithmetic in the graph that MIL has one operation for: layer norm, GELU, SiLU, linear layers.

A fusion is found on the graph, before anything is written. It has a root (the node whose place the MIL
operation takes) and covers nodes that are then not written; every value between them is read inside the
fusion only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.facts import Facts, attr, axis_of, given, is_op, only_use

_CLOSE = 1e-5  # relative: constants of GELU are written with 7 digits


@dataclass(frozen=True)
class Fusion:
    """One MIL operation for several nodes.

    Attributes:
        kind: ``layer_norm``, ``gelu``, ``silu``, ``linear``.
        root: node whose output the operation makes.
        source: its input.
        covers: the other nodes.
        extra: axes, gamma, beta, epsilon, mode, weight, bias.
    """

    kind: str
    root: ir.Node
    source: ir.Value
    covers: tuple[ir.Node, ...]
    extra: dict[str, Any] = field(default_factory=dict)


def find(facts: Facts) -> dict[ir.Node, Fusion]:
    """Fusions of a graph by root; no node is in two."""
    taken: set[ir.Node] = set()
    found: dict[ir.Node, Fusion] = {}
    for node in facts.graph.ir:
        for match in (_layer_norm, _gelu_erf, _gelu_tanh, _silu, _linear):
            fusion = match(facts, node)
            if fusion is not None and taken.isdisjoint((fusion.root, *fusion.covers)):
                taken.update((fusion.root, *fusion.covers))
                found[fusion.root] = fusion
                break
    return found


def _closed(root: ir.Node, covers: Iterable[ir.Node]) -> bool:
    """Whether everything the covered nodes make is read by them or the root only."""
    inside = {root, *covers}
    return all(
        not value.is_graph_output() and all(use.node in inside for use in value.uses())
        for node in covers
        for value in node.outputs
    )


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The second operand of a two-operand node that reads ``value``."""
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    return second if first is value else first if second is value else None


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and abs(number - wanted) <= _CLOSE * abs(wanted)


def _scaled(facts: Facts, value: ir.Value | None, wanted: float) -> tuple[ir.Value, ir.Node] | None:
    """``x`` and the node where ``value = x * wanted`` (as Mul, or Div by the inverse)."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Mul", "Div"):
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    if is_op(node, "Div"):
        return (left, node) if _near(facts.scalar(right), 1 / wanted) else None
    for x, factor in ((left, right), (right, left)):
        if _near(facts.scalar(factor), wanted):
            return x, node
    return None


# Layer norm ----------------------------------------------------------------------------------------------


def _layer_norm(facts: Facts, node: ir.Node) -> Fusion | None:
    """``(x - mean) / sqrt(mean((x - mean)^2) + eps) [* gamma] [+ beta]``; anchored at the square root."""
    if not is_op(node, "Sqrt"):
        return None
    core = _variance(facts, node)
    if core is None:
        return None
    x, centred, axes, epsilon, covers = core
    root = _division(facts, node, centred)
    if root is None:
        return None
    covers += [node, *root[:-1]]
    last = root[-1]
    gamma, last, covers = _affine(facts, last, covers, "Mul", axes)
    beta, last, covers = _affine(facts, last, covers, "Add", axes)
    covers = [one for one in covers if one is not last]
    if not _closed(last, covers):
        return None
    extra = {"axes": axes, "epsilon": epsilon, "gamma": gamma, "beta": beta}
    return Fusion("layer_norm", last, x, tuple(covers), extra)


def _variance(
    facts: Facts, root: ir.Node
) -> tuple[ir.Value, ir.Value, tuple[int, ...], float, list[ir.Node]] | None:
    """(x, x - mean, axes, epsilon, nodes) of ``mean((x - mean(x))^2) + epsilon`` below a square root."""
    total = root.inputs[0].producer() if root.inputs[0] is not None else None
    if total is None or not is_op(total, "Add"):
        return None
    epsilon, mean = facts.scalar(total.inputs[1]), total.inputs[0]
    if epsilon is None:
        epsilon, mean = facts.scalar(total.inputs[0]), total.inputs[1]
    average = None if mean is None else mean.producer()
    axes = _mean_axes(facts, average)
    if epsilon is None or average is None or axes is None:
        return None
    square = average.inputs[0].producer() if average.inputs[0] is not None else None
    centred = _squared(facts, square)
    subtract = None if centred is None else centred.producer()
    if square is None or centred is None or subtract is None or not is_op(subtract, "Sub"):
        return None
    x, shift = subtract.inputs
    first = None if shift is None else shift.producer()
    if x is None or first is None or _mean_axes(facts, first) != axes or first.inputs[0] is not x:
        return None
    return x, centred, axes, epsilon, [total, average, square, subtract, first]


def _mean_axes(facts: Facts, node: ir.Node | None) -> tuple[int, ...] | None:
    """Sorted axes of a ReduceMean that keeps them."""
    if node is None or not is_op(node, "ReduceMean") or not attr(node, "keepdims", 1):
        return None
    rank, axes = facts.rank(node.inputs[0]), facts.ints(node, "axes", 1)
    return None if rank is None or not axes else tuple(sorted(axis_of(a, rank) for a in axes))


def _squared(facts: Facts, node: ir.Node | None) -> ir.Value | None:
    """``c`` where the node computes ``c * c``."""
    if node is None:
        return None
    if is_op(node, "Pow") and facts.scalar(node.inputs[1]) == 2.0:
        return node.inputs[0]
    return node.inputs[0] if is_op(node, "Mul") and node.inputs[0] is node.inputs[1] else None


def _division(facts: Facts, root: ir.Node, centred: ir.Value) -> list[ir.Node] | None:
    """Nodes that divide ``centred`` by the square root: Div, or a reciprocal and Mul."""
    after = only_use(root.outputs[0])
    if after is None:
        return None
    if is_op(after, "Div") and after.inputs[0] is centred and after.inputs[1] is root.outputs[0]:
        return [after]
    inverse = is_op(after, "Reciprocal") or (is_op(after, "Div") and facts.scalar(after.inputs[0]) == 1.0)
    product = only_use(after.outputs[0]) if inverse else None
    if product is None or not is_op(product, "Mul") or _other(product, after.outputs[0]) is not centred:
        return None
    return [after, product]


def _affine(
    facts: Facts, last: ir.Node, covers: list[ir.Node], kind: str, axes: tuple[int, ...]
) -> tuple[np.ndarray | None, ir.Node, list[ir.Node]]:
    """A following Mul or Add by a constant that varies along ``axes`` only, shaped as MIL wants it."""
    after = only_use(last.outputs[0])
    if after is None or not is_op(after, kind):
        return None, last, covers
    parameter = _other(after, last.outputs[0])
    rank = facts.rank(last.outputs[0])
    sizes = [facts.size(last.outputs[0], axis) for axis in axes]
    if rank is None or None in sizes or not facts.is_constant(parameter):
        return None, last, covers
    shape = facts.static(parameter)
    if shape is None or len(shape) > rank:
        return None, last, covers
    full = (1,) * (rank - len(shape)) + shape
    if any(n != 1 and axis not in axes for axis, n in enumerate(full)):
        return None, last, covers
    array = facts.constant(parameter)
    assert array is not None
    kept = array.reshape([full[axis] for axis in axes])
    return np.broadcast_to(kept, [n for n in sizes if n is not None]), after, [*covers, last]


# Activations ---------------------------------------------------------------------------------------------


def _gelu_erf(facts: Facts, node: ir.Node) -> Fusion | None:
    """``0.5 x (1 + erf(x / sqrt 2))`` with the factor 0.5 anywhere."""
    if not is_op(node, "Erf"):
        return None
    inner = _scaled(facts, node.inputs[0], 1 / math.sqrt(2))
    if inner is None:
        return None
    x, scale = inner
    return _halved(facts, node, x, [scale], "EXACT")


def _gelu_tanh(facts: Facts, node: ir.Node) -> Fusion | None:
    """``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``."""
    if not is_op(node, "Tanh"):
        return None
    inner = _scaled(facts, node.inputs[0], math.sqrt(2 / math.pi))
    total = None if inner is None else inner[0].producer()
    if inner is None or total is None or not is_op(total, "Add"):
        return None
    for x, cubic in (tuple(total.inputs), tuple(total.inputs)[::-1]):
        term = _scaled(facts, cubic, 0.044715)
        cube = None if term is None or x is None else _cube(facts, term[0], x)
        if term is not None and cube is not None and x is not None:
            return _halved(facts, node, x, [inner[1], total, term[1], *cube], "TANH_APPROXIMATION")
    return None


def _cube(facts: Facts, value: ir.Value, x: ir.Value) -> list[ir.Node] | None:
    """Nodes that compute ``x^3``."""
    node = value.producer()
    if is_op(node, "Pow") and node is not None:
        return [node] if node.inputs[0] is x and facts.scalar(node.inputs[1]) == 3.0 else None
    if node is None or not is_op(node, "Mul"):
        return None
    square = _other(node, x)
    below = None if square is None else square.producer()
    return [node, below] if below is not None and _squared(facts, below) is x else None


def _halved(facts: Facts, node: ir.Node, x: ir.Value, covers: list[ir.Node], mode: str) -> Fusion | None:
    """The ``0.5 x (1 + f)`` around ``f = node``."""
    plus = only_use(node.outputs[0])
    if plus is None or not is_op(plus, "Add") or facts.scalar(_other(plus, node.outputs[0])) != 1.0:
        return None
    covers = [*covers, node, plus]
    times = only_use(plus.outputs[0])
    if times is None or not is_op(times, "Mul"):
        return None
    factor = _other(times, plus.outputs[0])
    half = _scaled(facts, factor, 0.5)
    if half is not None and half[0] is x:  # (0.5 x) (1 + f)
        return _activation(times, x, [*covers, half[1]], mode)
    if facts.scalar(factor) == 0.5:  # x (0.5 (1 + f))
        last = only_use(times.outputs[0])
        if last is None or not is_op(last, "Mul") or _other(last, times.outputs[0]) is not x:
            return None
        return _activation(last, x, [*covers, times], mode)
    if factor is not x:
        return None
    last = only_use(times.outputs[0])  # (x (1 + f)) 0.5
    if last is None or _scaled(facts, last.outputs[0], 0.5) is None:
        return None
    return _activation(last, x, [*covers, times], mode)


def _activation(root: ir.Node, x: ir.Value, covers: list[ir.Node], mode: str) -> Fusion | None:
    nodes = tuple(one for one in dict.fromkeys(covers) if one is not root)
    return Fusion("gelu", root, x, nodes, {"mode": mode}) if _closed(root, nodes) else None


def _silu(facts: Facts, node: ir.Node) -> Fusion | None:
    """``x * sigmoid(x)``."""
    if not is_op(node, "Sigmoid"):
        return None
    product = only_use(node.outputs[0])
    x = node.inputs[0]
    if product is None or x is None or not is_op(product, "Mul") or _other(product, node.outputs[0]) is not x:
        return None
    return Fusion("silu", product, x, (node,))


def _linear(facts: Facts, node: ir.Node) -> Fusion | None:
    """``x W + b`` with a constant matrix and vector, on at most three axes."""
    if not is_op(node, "MatMul") or not is_matrix(facts, node):
        return None
    plus = only_use(node.outputs[0])
    bias = None if plus is None or not is_op(plus, "Add") else _other(plus, node.outputs[0])
    if plus is None or bias is None or not facts.is_constant(bias):
        return None
    shape, width = facts.static(bias), facts.size(node.inputs[1], 1)
    if shape is None or width is None or not shape or shape[-1] != width or math.prod(shape) != width:
        return None
    if len(shape) > (facts.rank(node.outputs[0]) or 0):
        return None
    x = node.inputs[0]
    assert x is not None
    return Fusion("linear", plus, x, (node,), {"weight": node.inputs[1], "bias": bias})


def is_matrix(facts: Facts, node: ir.Node) -> bool:
    """Whether a MatMul multiplies one to three axes by a constant matrix: MIL's ``linear``."""
    weight = given(node, 1)
    return (
        facts.is_constant(weight)
        and facts.rank(weight) == 2
        and (facts.rank(node.inputs[0]) or 9) <= 3
        and not facts.is_constant(node.inputs[0])
    )


def roots(fusions: dict[ir.Node, Fusion]) -> Iterator[ir.Node]:
    """Nodes that are not written because a fusion covers them."""
    for fusion in fusions.values():
        yield from fusion.covers
