"""Labels through convolutions, matrix products and recurrent layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.ops.recurrent import GATES
from rubicc.passes.prune.labels import Vector
from rubicc.passes.prune.pointwise import broadcast
from rubicc.passes.prune.walk import Axes, Kept, Lost, Patch, Results, Rule, Walk
from rubicc.passes.rewrite import Editor


def _conv(walk: Walk, node: ir.Node) -> Results:
    """Whole groups go, or the same channel of every group."""
    return _convolve(walk, node, transposed=False)


def _conv_transpose(walk: Walk, node: ir.Node) -> Results:
    return _convolve(walk, node, transposed=True)


def _convolve(walk: Walk, node: ir.Node, *, transposed: bool) -> Results:
    x, weight = walk.of(node, 0), walk.of(node, 1)
    groups = node.attributes.get_int("group", 1) or 1
    cin, rows, columns = walk.shape(node.inputs[0])[1], *walk.shape(node.inputs[1])[:2]
    if not x:
        raise Lost(f"{node.op_type} of a constant")
    into, out = (rows, columns * groups) if transposed else (cin, rows)
    weight = weight or [None] * walk.rank(node.inputs[1])
    walk.fix(node, weight[2:], "it is a kernel's")
    why = walk.why(node)
    outer, inner = walk.labels.factor(_vector(x[1], cin), (groups, into // groups), why)
    if transposed:
        walk.equate(node, x[1], weight[0])
        made = walk.labels.combine([outer, weight[1]], (groups, columns))
    else:
        walk.equate(node, inner, weight[1])
        made = weight[0]
        rows_outer, _ = walk.labels.factor(_vector(made, out), (groups, out // groups), why)
        walk.equate(node, outer, rows_outer)
    for index in range(2, len(node.inputs)):
        for vector in walk.of(node, index):
            walk.equate(node, made, vector)
    walk.makes(node, "channels", made)
    if groups > 1:
        walk.patch(_group_edit(outer, groups))
    return [[x[0], made, *[None] * (len(x) - 2)]]


def _vector(vector: Vector, size: int) -> np.ndarray:
    """Labels of an axis, fixed ones where it has none."""
    return np.zeros(size, np.int64) if vector is None else vector


def _group_edit(outer: Vector, groups: int) -> Patch:
    def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
        left = int(kept(outer, groups).sum())
        if left != groups:
            real.attributes["group"] = ir.AttrInt64("group", left)
            editor.mark(real)

    return edit


def _matmul(walk: Walk, node: ir.Node) -> Results:
    shapes = [walk.shape(node.inputs[index]) for index in (0, 1)]
    left: Axes = walk.of(node, 0) or [None] * len(shapes[0])
    right: Axes = walk.of(node, 1) or [None] * len(shapes[1])
    for index in range(2, len(node.inputs)):
        for vector in walk.of(node, index):
            walk.fix(node, [vector], "it is a zero point")
    if min(len(left), len(right)) < 2:
        raise Lost("product with a vector")
    walk.equate(node, left[-1], right[-2])
    walk.makes(node, "features", right[-1])
    return [[*broadcast(walk, node, range(2), leave=2), left[-2], right[-1]]]


def _gemm(walk: Walk, node: ir.Node) -> Results:
    a, b = list(walk.of(node, 0)), list(walk.of(node, 1))
    if not a or not b:
        raise Lost("Gemm of a value without labels")
    a = a[::-1] if node.attributes.get_int("transA", 0) else a
    b = b[::-1] if node.attributes.get_int("transB", 0) else b
    walk.equate(node, a[1], b[0])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias, shape = walk.of(node, 2), walk.shape(node.inputs[2])
        for axis in range(1, len(shape) + 1):
            if shape[-axis] > 1:
                walk.equate(node, (a[0], b[1])[-axis], bias[-axis])
    walk.makes(node, "features", b[1])
    return [[a[0], b[1]]]


def _einsum(walk: Walk, node: ir.Node) -> Results:
    """Axes with the same letter go together."""
    text = (node.attributes.get_string("equation") or "").replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if not arrow or "." in text or len(terms) != len(node.inputs):
        raise Lost(f"Einsum {text!r}")
    found: dict[str, Vector] = {}
    for index, term in enumerate(terms):
        shape = walk.shape(node.inputs[index])
        axes: Axes = walk.of(node, index) or [None] * len(shape)
        for letter, vector, size in zip(term, axes, shape, strict=True):
            if size == 1 and letter not in right:
                continue
            if letter in found:
                walk.equate(node, found[letter], vector)
            else:
                found[letter] = vector
    return [[found.get(letter) for letter in right]]


def _recurrent(walk: Walk, node: ir.Node) -> Results:
    """A hidden unit is a row of every gate, a column of the recurrence, and all that belongs to them.

    Both directions share tensors and so lose the same units.
    """
    gates = GATES[node.op_type]
    x, size = walk.of(node, 0), walk.shape(node.inputs[1])[1] // gates
    w, r = walk.of(node, 1), walk.of(node, 2)
    if not w or not r or not x:
        raise Lost(f"{node.op_type} with weights that are not understood")
    walk.fix(node, [w[0], r[0]], "it is a direction")
    hidden = _vector(r[2], size)
    walk.equate(node, w[2], x[2])
    walk.equate(node, w[1], gate_rows(hidden, gates))
    walk.equate(node, r[1], gate_rows(hidden, gates))
    for index, copies in ((3, 2 * gates), (7, 3)):
        bias = walk.of(node, index)
        if bias:
            walk.fix(node, bias[:1], "it is a direction")
            walk.equate(node, bias[1], gate_rows(hidden, copies))
    for index in (5, 6):
        state = walk.of(node, index)
        if index < len(node.inputs) and node.inputs[index] is not None:
            walk.equate(node, state[2] if state else None, hidden)
    walk.makes(node, "hidden units", hidden)

    def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
        left = int(kept(hidden, size).sum())
        if left != size:
            real.attributes["hidden_size"] = ir.AttrInt64("hidden_size", left)
            editor.mark(real)

    walk.patch(edit)
    return [[None, None, None, hidden], [None, None, hidden], [None, None, hidden]]


def gate_rows(hidden: np.ndarray, copies: int) -> np.ndarray:
    """Labels of the rows of all gates (or of both biases of all gates), which lie one behind another."""
    return np.tile(hidden, copies)


PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvInteger"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MatMul", "MatMulInteger"), _matmul),
    "Gemm": _gemm,
    "Einsum": _einsum,
    **dict.fromkeys(GATES, _recurrent),
}
