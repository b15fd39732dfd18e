"""Matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var
from rubicc.backends.coreml.lowering.facts import Facts, attr, given, is_op
from rubicc.backends.coreml.lowering.fuse import Fusion, is_matrix
from rubicc.backends.coreml.lowering.table import Refusal, convert, refuse, unknown

_TRANSPOSED = "transposed"


def _turned(array: np.ndarray) -> np.ndarray:
    return array.T


def _linear(c: Context, node: ir.Node, x: ir.Value, weight: ir.Value, bias: Var | None) -> Var:
    """``x W + b`` with ``W`` (K, N), which is stored turned."""
    inputs = {"x": c.var(x), "weight": c.weight(weight, _turned, _TRANSPOSED)}
    return c.op("linear", node, **inputs, **({} if bias is None else {"bias": bias}))


def _vector(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


def fused_linear(c: Context, fusion: Fusion) -> None:
    """MatMul by a constant and the addition of a bias."""
    bias = c.weight(fusion.extra["bias"], _vector, "vector", moves=False)
    c.set(fusion.root.outputs[0], _linear(c, fusion.root, fusion.source, fusion.extra["weight"], bias))


def _check_matmul(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    ranks = [facts.rank(value) for value in node.inputs]
    if None in ranks:
        yield unknown("the number of axes of an operand of MatMul is unknown")


@convert(
    "MatMul",
    mil="linear matmul expand_dims squeeze",
    note="linear for a constant matrix and up to three axes",
    check=_check_matmul,
)
def matmul(c: Context, node: ir.Node) -> None:
    """Product; a Transpose of the last two axes in front of the second operand is done by the operation."""
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None and right is not None
    if is_matrix(c, node):
        c.set(node.outputs[0], _linear(c, node, left, right, None))
        return
    turned = _last_two_swapped(c, right)
    x, y = c.var(left), c.var(right if turned is None else turned)
    flat = [v.rank == 1 for v in (x, y)]
    if flat[1]:
        y = c.op("expand_dims", node, "column", x=y, axes=[1])
    if flat[0]:
        x = c.op("expand_dims", node, "row", x=x, axes=[0])
    made = c.op("matmul", node, "product" if any(flat) else "", x=x, y=y, transpose_y=turned is not None)
    if any(flat):
        axes = [axis for axis, is_flat in ((-2, flat[0]), (-1, flat[1])) if is_flat]
        made = c.op("squeeze", node, x=made, axes=[axis + made.rank for axis in axes])
    c.set(node.outputs[0], made)


def _last_two_swapped(c: Context, value: ir.Value) -> ir.Value | None:
    """What a Transpose that swaps the last two axes reads."""
    node = value.producer()
    if node is None or not is_op(node, "Transpose") or c.is_constant(value):
        return None
    rank = c.rank(value) or 0
    perm = attr(node, "perm", list(range(rank))[::-1])
    return node.inputs[0] if rank > 1 and list(perm) == [*range(rank - 2), rank - 1, rank - 2] else None


@convert("Gemm", mil="linear matmul mul add", note="alpha and beta go into constant operands")
def gemm(c: Context, node: ir.Node) -> None:
    """``alpha A' B' + beta C``."""
    a, b, third = node.inputs[0], node.inputs[1], given(node, 2)
    assert a is not None and b is not None
    alpha, beta = attr(node, "alpha", 1.0), attr(node, "beta", 1.0)
    if c.is_constant(b) and not attr(node, "transA", 0):
        _gemm_linear(c, node, a, b, third, alpha, beta)
        return
    x, y = c.var(a), c.var(b)
    swaps = {"transpose_x": bool(attr(node, "transA", 0)), "transpose_y": bool(attr(node, "transB", 0))}
    made = c.op("matmul", node, "product", x=x, y=y, **swaps)
    if alpha != 1.0:
        made = c.op("mul", node, "alpha", x=made, y=c.scalar_like(made, alpha))
    if third is not None and beta != 0.0:
        addend = c.var(third)
        if beta != 1.0:
            addend = c.op("mul", node, "beta", x=addend, y=c.scalar_like(addend, beta))
        made = c.op("add", node, x=made, y=addend)
    c.set(node.outputs[0], made)


def _gemm_linear(
    c: Context, node: ir.Node, a: ir.Value, b: ir.Value, third: ir.Value | None, alpha: float, beta: float
) -> None:
    turned = bool(attr(node, "transB", 0))

    def weight(array: np.ndarray) -> np.ndarray:
        array = array if turned else array.T
        return array if alpha == 1.0 else array * array.dtype.type(alpha)

    how = " ".join([*([] if turned else [_TRANSPOSED]), *([] if alpha == 1.0 else [f"times {alpha:g}"])])
    width = c.size(node.outputs[0], -1)
    shape = c.static(third) if c.is_constant(third) else None
    flat = shape is not None and math.prod(shape) in (1, width) and (not shape or shape[-1] in (1, width))
    inputs = {"x": c.var(a), "weight": c.weight(b, weight, how, moves=alpha == 1.0)}
    if third is None or beta == 0.0:
        c.set(node.outputs[0], c.op("linear", node, **inputs))
    elif flat and width is not None and (math.prod(shape or ()) == width or len(shape or ()) < 2):

        def bias(array: np.ndarray) -> np.ndarray:
            array = array if beta == 1.0 else array * array.dtype.type(beta)
            return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (width,)))

        vector = c.weight(third, bias, "vector" if beta == 1.0 else f"times {beta:g}", moves=False)
        c.set(node.outputs[0], c.op("linear", node, **inputs, bias=vector))
    else:
        product = c.op("linear", node, "product", **inputs)
        addend = c.var(third)
        if beta != 1.0:
            addend = c.op("mul", node, "beta", x=addend, y=c.scalar_like(addend, beta))
        c.set(node.outputs[0], c.op("add", node, x=product, y=addend))


# Einsum --------------------------------------------------------------------------------------------------


def equation_of(node: ir.Node) -> tuple[list[str], str]:
    """Labels of the operands and of the result of an Einsum."""
    text = attr(node, "equation").replace(" ", "")
    left, arrow, right = text.partition("->")
    operands = left.split(",")
    if not arrow:
        letters = "".join(operands)
        right = "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    return operands, right


def _check_einsum(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    operands, result = equation_of(node)
    if "..." in attr(node, "equation") or any(len(set(one)) != len(one) for one in (*operands, result)):
        yield refuse("Einsum with an ellipsis or a diagonal")
        return
    if len(operands) > 2:
        yield refuse("Einsum of more than two operands")
        return
    if len(operands) == 2 and mil_form(operands[0], operands[1], result) is None:
        groups = _Groups(operands[0], operands[1], result)
        sizes = {
            label: facts.size(value, axis)
            for labels, value in zip(operands, node.inputs, strict=True)
            for axis, label in enumerate(labels)
        }
        for group in (groups.left, groups.right, groups.inner):
            if len(group) > 1 and any(sizes[label] is None for label in group):
                yield unknown(f"Einsum {attr(node, 'equation')} joins axes of free size")
        if len(groups.batch) > 3:
            yield refuse("Einsum with more than three common axes")


def mil_form(first: str, second: str, result: str) -> bool | None:
    """Whether MIL's einsum computes it: ``False`` as is, ``True`` with operands exchanged, else ``None``.

    The forms are ``abcd,adce->abce`` and ``abc,cbd->abd``.
    """
    for a, b, swapped in ((first, second, False), (second, first, True)):
        if len({*a, *b}) != len(a) + 1 or len(a) != len(b):
            continue
        if len(a) == 4 and b[:3] == a[0] + a[3] + a[2] and result == a[:3] + b[3]:
            return swapped
        if len(a) == 3 and b[:2] == a[2] + a[1] and result == a[:2] + b[2]:
            return swapped
    return None


@convert(
    "Einsum",
    mil="einsum matmul transpose reshape squeeze reduce_sum",
    note="abcd,adce->abce is MIL's own; others of two operands become a matrix product",
    check=_check_einsum,
)
def einsum(c: Context, node: ir.Node) -> None:
    """MIL's einsum where it has the form, a batched product with transposes elsewhere."""
    operands, result = equation_of(node)
    values = [c.var(value) for value in node.inputs]
    if len(values) == 1:
        made, labels = _summed(c, node, values[0], operands[0], result, "0")
        c.set(node.outputs[0], _ordered(c, node, made, labels, result, ""))
        return
    swapped = mil_form(operands[0], operands[1], result)
    if swapped is not None:
        rank3 = len(result) == 3
        pair = values[::-1] if swapped else values
        made = c.op(
            "einsum", node, values=tuple(pair), equation="chw,whr->chr" if rank3 else "nchw,nwhu->nchu"
        )
        c.set(node.outputs[0], made)
        return
    c.set(node.outputs[0], _product(c, node, values, operands, result))


class _Groups:
    """Roles of the labels of a product of two operands."""

    def __init__(self, first: str, second: str, result: str) -> None:
        both = [x for x in first if x in second]
        self.batch = [x for x in both if x in result]
        self.inner = [x for x in both if x not in result]
        self.left = [x for x in first if x not in second and x in result]
        self.right = [x for x in second if x not in first and x in result]


def _product(c: Context, node: ir.Node, values: Sequence[Var], operands: Sequence[str], result: str) -> Var:
    groups = _Groups(operands[0], operands[1], result)
    sides = []
    for index, (value, labels, order) in enumerate(
        zip(values, operands, ((groups.left, groups.inner), (groups.inner, groups.right)), strict=True)
    ):
        kept = "".join(x for x in labels if x in result or x in groups.inner)
        value, labels = _summed(c, node, value, labels, kept, f"{index}")
        wanted = "".join([*groups.batch, *order[0], *order[1]])
        value = _ordered(c, node, value, labels, wanted, f"turned{index}")
        sides.append(_joined(c, node, value, len(groups.batch), len(order[0]), f"joined{index}"))
    made = c.op("matmul", node, "product", x=sides[0], y=sides[1])
    labels = "".join([*groups.batch, *groups.left, *groups.right])
    if max(len(groups.left), len(groups.right)) < 2:
        ahead = len(groups.batch)
        gone = [ahead + k for k, side in enumerate((groups.left, groups.right)) if not side]
        made = c.op("squeeze", node, "parted", x=made, axes=gone) if gone else made
    else:
        sizes = {
            x: n
            for value, names in zip(values, operands, strict=True)
            for x, n in zip(names, value.shape, strict=True)
        }
        made = c.op("reshape", node, "parted", x=made, shape=_at_most_one_free([sizes[x] for x in labels]))
    return _ordered(c, node, made, labels, result, "")


def _at_most_one_free(shape: Sequence[object]) -> list[int]:
    return [n if isinstance(n, int) else -1 for n in shape]


def _summed(c: Context, node: ir.Node, value: Var, labels: str, kept: str, part: str) -> tuple[Var, str]:
    """Labels that nothing else has are summed away."""
    gone = [axis for axis, label in enumerate(labels) if label not in kept]
    if gone:
        value = c.op("reduce_sum", node, f"sum{part}", x=value, axes=gone, keep_dims=False)
    return value, "".join(label for label in labels if label in kept)


def _ordered(c: Context, node: ir.Node, value: Var, labels: str, wanted: str, part: str) -> Var:
    if labels == wanted:
        return value
    return c.op("transpose", node, part, x=value, perm=[labels.index(label) for label in wanted])


def _joined(c: Context, node: ir.Node, value: Var, batch: int, rows: int, part: str) -> Var:
    """Axes ``batch + (rows) + (rest)`` as ``batch + one + one``."""
    shape = list(value.shape)
    ahead, behind = shape[batch : batch + rows], shape[batch + rows :]
    if len(ahead) == 1 and len(behind) == 1:
        return value
    sizes = [
        *shape[:batch],
        *(math.prod(part_) if len(part_) != 1 else part_[0] for part_ in (ahead, behind)),
    ]
    return c.op("reshape", node, part, x=value, shape=_at_most_one_free(sizes))
