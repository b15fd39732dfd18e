"""Operators that pass their input through unchanged go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.ir.shapes import static_shape
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, can_replace_output, constant, graphs_of, rank

INT_MAX = 2**31 - 1  # exporters write this or more for "to the end"


@register
class EliminateIdentity(Pass):
    """Operators that provably return their first (or only non-constant) input unchanged go.

    ::

        x -> Identity -> Dropout -> Reshape(same shape) -> Mul(1) -> Relu -> y
        becomes
        x -> Relu -> y

    Covers Identity, Dropout at inference, Reshape / Expand / Flatten / Squeeze / Unsqueeze to the same shape,
    Transpose with the identity permutation, Cast to the same type, Slice of everything, Pad by nothing,
    Concat / Sum / Max / Min of one, Clip without bounds, and Add 0, Sub 0, Mul 1, Div 1, Pow 1 where
    broadcasting does not enlarge the result. Zeros may change sign under Add 0.
    """

    id = "cleanup.eliminate-identity"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"no-identities"})

    def run(self, graph: Graph) -> bool:
        """See :class:`EliminateIdentity`."""
        edit = Editor(graph, self.id)
        changed = False
        for owner in graphs_of(graph):
            for node in owner:
                source = passed_through(node)
                if source is not None and can_replace_output(node.outputs[0], source):
                    edit.replace_value(node.outputs[0], source)
                    edit.remove(node)
                    changed = True
        return changed


def passed_through(node: ir.Node) -> ir.Value | None:
    """The input that ``node`` returns unchanged, or ``None``."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is None or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return None
    return rule(node)


def _always(node: ir.Node) -> ir.Value | None:
    return node.inputs[0]


def _single(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _dropout(node: ir.Node) -> ir.Value | None:
    """Since opset 12 training is an input; before 7 it was an attribute, which we leave alone."""
    if "is_test" in node.attributes:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = constant(node.inputs[2])
        if training is None or bool(np.any(training)):
            return None
    return node.inputs[0]


def _same_shape(node: ir.Node) -> ir.Value | None:
    """Flatten, Expand, Squeeze and Unsqueeze whose result has the shape of their input."""
    before = static_shape(node.inputs[0])
    return node.inputs[0] if before is not None and before == static_shape(node.outputs[0]) else None


def _reshape(node: ir.Node) -> ir.Value | None:
    """To the same static shape, or every dimension but one provably kept (0, or its own number)."""
    source, shape = node.inputs[0], constant(node.inputs[1])
    if _same_shape(node) is not None:
        return source
    if source is None or source.shape is None or shape is None or shape.size != len(source.shape):
        return None
    keeps_zero = node.attributes.get_int("allowzero", 0) == 0
    pairs = zip(shape.tolist(), source.shape, strict=True)
    free = [wanted for wanted, have in pairs if not ((wanted == 0 and keeps_zero) or wanted == have)]
    # -1 is worked out from all other dimensions, so it is kept too, unless one of them is zero-sized
    return source if not free or free == [-1] else None


def _transpose(node: ir.Node) -> ir.Value | None:
    perm = node.attributes.get_ints("perm")
    if perm is None:
        return node.inputs[0] if rank(node.inputs[0]) in (0, 1) else None
    return node.inputs[0] if list(perm) == list(range(len(perm))) else None


def _cast(node: ir.Node) -> ir.Value | None:
    source = node.inputs[0]
    same = source is not None and source.dtype is not None
    return source if same and source.dtype == node.attributes.get_int("to") else None  # type: ignore[union-attr]


def _cast_like(node: ir.Node) -> ir.Value | None:
    source, like = node.inputs[0], node.inputs[1]
    known = source is not None and like is not None and source.dtype is not None
    return source if known and source.dtype == like.dtype else None  # type: ignore[union-attr]


def _slice(node: ir.Node) -> ir.Value | None:
    """All starts 0, all steps 1, all ends at or beyond the end."""
    source = node.inputs[0]
    if len(node.inputs) < 3:
        return None
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else np.ones(1)
    if starts is None or ends is None or steps is None or np.any(starts != 0) or np.any(steps != 1):
        return None
    axes: np.ndarray | None = np.arange(ends.size)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = constant(node.inputs[3])
    if axes is None:
        return None
    for axis, end in zip(axes.tolist(), ends.tolist(), strict=True):
        size = source.shape[axis] if source is not None and source.shape is not None else None
        if end < INT_MAX and not (isinstance(size, int) and end >= size):
            return None
    return source


def _pad(node: ir.Node) -> ir.Value | None:
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return node.inputs[0] if pads is not None and not np.any(pads) else None


def _clip(node: ir.Node) -> ir.Value | None:
    bounded = any(value is not None for value in node.inputs[1:]) or len(node.attributes) > 0
    return None if bounded else node.inputs[0]


def _neutral(element: float, commutes: bool) -> Callable[[ir.Node], ir.Value | None]:
    """Rule for ``x op element``; broadcasting of the constant must not enlarge ``x``."""

    def rule(node: ir.Node) -> ir.Value | None:
        orders = [(node.inputs[0], node.inputs[1])]
        if commutes:
            orders.append((node.inputs[1], node.inputs[0]))
        for kept, other in orders:
            array = constant(other)
            if kept is None or array is None or array.dtype.kind not in "fiu":
                continue
            if array.size and bool(np.all(array == element)) and _fits(array.shape, kept):
                return kept
        return None

    return rule


def _fits(shape: tuple[int, ...], value: ir.Value) -> bool:
    """Whether broadcasting an array of ``shape`` against ``value`` leaves the shape of ``value``."""
    if not shape:
        return True
    if value.shape is None or len(shape) > len(value.shape):
        return False
    tail = value.shape.dims[-len(shape) :]
    return all(own in (1, dim) for own, dim in zip(shape, tail, strict=True))


_RULES: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Reshape": _reshape,
    "Expand": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Transpose": _transpose,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Slice": _slice,
    "Pad": _pad,
    "Clip": _clip,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Add": _neutral(0, commutes=True),
    "Sub": _neutral(0, commutes=False),
    "Mul": _neutral(1, commutes=True),
    "Div": _neutral(1, commutes=False),
    "Pow": _neutral(1, commutes=False),
}
